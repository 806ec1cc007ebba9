"""Scenes: pictures that combine one to four things, with captions that describe them.

A scene is a function of a seed and a number. `scene` decides what it shows, `layout` where each thing is, `phrases` how
captions describe it, and `render` makes the picture. Only `render` needs emoji art.
"""

from data.scenes.scene import Group, Scene

__all__ = ["Group", "Scene"]
