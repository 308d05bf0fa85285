"""
How Yukari stands against what people would use instead, on the machine it runs on.

``python -m bench`` prints every table; ``python -m bench --help`` says what it takes.
Peers (`bench.peers`) run as processes of their own on the same files; whatever
is compared is measured in turns, A B A B, and told as medians of ratios.
"""
