# The commands of docs/transparent.rst, each in a file BLOCKS/NUMBER, in name spaces of their own:
# the cache and its client in one network, the registry in another. Run by test_transparent.py.
#
# transparent.sh SCRATCH PYTHON OLLAMA CERTIFY RENEW ADDRESS SETTINGS NAME TRUST ASK PULL PULL_BY_NAME
set -euo pipefail
scratch=$1 python=$2 ollama=$3
shift 3
certify=$1 renew=$2 address=$3 settings=$4 name=$5 trust=$6 ask=$7 pull=$8 pull_by_name=$9

# What the page writes to is a copy.
mkdir "$scratch"/{etc,roots,home}
cp -a /etc/. "$scratch/etc"
mount --bind "$scratch/etc" /etc
mount --bind "$scratch/roots" /usr/local/share/ca-certificates
mount -t tmpfs tmpfs /run

ip link set lo up
ip address add 192.0.2.10/32 dev lo
ip netns add registry
ip link add inside type veth peer name outside netns registry
ip address add 198.51.100.1/24 dev inside
ip link set inside up
ip -n registry address add 198.51.100.7/24 dev outside
ip -n registry link set lo up
ip -n registry link set outside up

until_true() { for _ in $(seq 100); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done; "$@"; }
said() { echo "$1: $(sed 's/\x1b\[[0-9;?]*[A-Za-z]//g; s/ *\r*$//' | tail -n 1)"; }

ip netns exec registry "$python" -m tests.registry_by_tls "$scratch" >"$scratch/registry.log" 2>&1 &
until_true grep -q listens "$scratch/registry.log"

echo "127.0.0.1 localhost" >/etc/hosts
cp /etc/hosts /etc/hosts.before
echo "198.51.100.7 registry.ollama.ai" >>/etc/hosts
bash -e "$certify" 2>/dev/null
bash -e "$renew" 2>/dev/null | said certificate
bash -e "$address" | head -n 1 | cut -d ' ' -f 1 | said before
mv /etc/hosts.before /etc/hosts
bash -e "$name"
(cd /etc/yukari && bash -e "$trust" >/dev/null 2>&1)

yukari() {
    XDG_CACHE_HOME=$scratch/$1 UPSTREAM_CA=$scratch/root.pem \
        "$python" -c "from yukari.tap import main; main()" --min-free=0 >"$scratch/$1.log" 2>&1 &
    until_true curl -s http://192.0.2.10:9200/healthz
}

while IFS='=' read -r variable value; do export "$variable=$value"; done <"$settings"
yukari cache
daemon=$!
bash -e "$ask" 2>/dev/null | said asked

export HOME=$scratch/home OLLAMA_HOST=127.0.0.1:11434 PATH=$(dirname "$ollama"):$PATH
ollama serve >"$scratch/ollama.log" 2>&1 &
until_true curl -s http://127.0.0.1:11434/
for block in "$pull" "$pull_by_name"; do bash -e "$block" 2>&1 | said "pull"; done
(cd "$HOME/.ollama/models/manifests" && find . -type f | sort)

kill "$daemon"
wait "$daemon"
unset UPSTREAM_ADDRESS
yukari loop
(bash -e "$pull" 2>&1 || true) | said loop
