"""A small world for CLIP-Dissect without files: embeddings of images and words, recorded activations."""

from __future__ import annotations

from scripts.blind_worlds import World, blind, found, make_world, planted, random_world

__all__ = ["World", "blind", "found", "make_world", "planted", "random_world"]
