"""Makes ``twistd yukari`` known; everything else is in `yukari.tap`."""

from twisted.application.service import ServiceMaker

yukari = ServiceMaker(
    "Yukari",
    "yukari.tap",
    "A pull-through cache for Ollama model registries",
    "yukari",
)
