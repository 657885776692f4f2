"""Image-text encoders: the space in which images and words meet, and embeddings kept in the store."""

from concept_monitor_cli.encoders.base import (
    Encoder,
    EncoderRequest,
    Precision,
    list_encoders,
    load_encoder,
    register_encoder,
)
from concept_monitor_cli.encoders.clip import ClipEncoder, ClipFiles
from concept_monitor_cli.encoders.embed import (
    Listed,
    PixelBlocks,
    check_templates,
    embed_image_blocks,
    embed_images,
    embed_listed,
    embed_texts,
    images_to_embed,
    looked_at_once,
)
from concept_monitor_cli.encoders.precomputed import PrecomputedEncoder

# Makes the kinds of encoders known.
from concept_monitor_cli.encoders import openers  # isort: skip  # noqa: F401

__all__ = [
    "ClipEncoder",
    "ClipFiles",
    "Encoder",
    "EncoderRequest",
    "Listed",
    "PixelBlocks",
    "Precision",
    "PrecomputedEncoder",
    "check_templates",
    "embed_image_blocks",
    "embed_images",
    "embed_listed",
    "embed_texts",
    "images_to_embed",
    "list_encoders",
    "load_encoder",
    "looked_at_once",
    "register_encoder",
]
