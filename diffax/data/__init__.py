"""Data sets, and the training batches made of them. A function annotated `-> Dataset` makes a data set."""

from diffax.data.captioned import image_text_folder
from diffax.data.dataset import Dataset, Source, in_memory
from diffax.data.embeddings import Embedded, Encoder, cached
from diffax.data.folder import image_folder
from diffax.data.pipeline import batches, examples
from diffax.data.scenes import shapes
from diffax.data.sklearn_digits import digits
from diffax.data.synthetic import Mixture, fake, mixture, ring
from diffax.data.text import Tokenizer, by_bytes, by_words, decode, encode, encode_all, encode_captions
from diffax.data.tfds_source import tfds

__all__ = [
    "Dataset",
    "Embedded",
    "Encoder",
    "Mixture",
    "Source",
    "Tokenizer",
    "batches",
    "by_bytes",
    "by_words",
    "cached",
    "decode",
    "digits",
    "encode",
    "encode_all",
    "encode_captions",
    "examples",
    "fake",
    "image_folder",
    "image_text_folder",
    "in_memory",
    "mixture",
    "ring",
    "shapes",
    "tfds",
]
