"""Scenes: pictures in which one to four things are combined, with captions that say how.

A scene is a function of a seed and a number. What it shows (`scene`), where each thing stands (`layout`), how it is
said (`phrases`) and what it looks like (`render`) are apart, so that all but the last need no art.
"""

from data.scenes.scene import Group, Scene

__all__ = ["Group", "Scene"]
