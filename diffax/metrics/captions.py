"""Do generated pictures show what their captions say? The checker of the data set `shapes` is the judge."""

import numpy as np

from diffax.metrics.scores import Scores, squared_distances

_NUMBERS = {1: "one", 2: "two", 3: "three"}


def caption_agreement(reference: dict, generated: dict, seed: int) -> Scores:
    """The share of pictures that are wholly right by `diffax.data.scenes.check`, and the shares of single statements.

    `caption_agreement` is of all pictures, `caption_agreement_one`, `_two` and `_three` of those whose caption asks for
    so many objects, `statement_agreement` is of all statements, and `statement_agreement_color`, `_count`, `_relation`,
    `_shape`, `_size` of those of a kind; what no caption asks for is left out. Real pictures score 1.

    Args:
        generated: x0 float [n, side, side, 3] in [-1, 1], and caption, n texts in the grammar of `shapes`.

    Raises:
        ValueError: no captions; one that the grammar does not have.
    """
    from diffax.data.scenes import check_all, parse

    if "caption" not in generated:
        raise ValueError(
            "the metric 'caption_agreement' needs generated['caption']: a data set with captions, such as shapes, and"
            " a text-conditional network"
        )
    captions = [parse(str(text)) for text in generated["caption"]]
    reports = check_all(generated["x0"], captions)
    shares = {"caption_agreement": [report.right for report in reports]}
    for number, word in _NUMBERS.items():
        asked = [report.right for report, caption in zip(reports, captions) if caption.count == number]
        shares[f"caption_agreement_{word}"] = asked
    facts = [fact for report in reports for fact in report.statements.items()]
    shares["statement_agreement"] = [true for _, true in facts]
    for kind in sorted({fact.kind for fact, _ in facts}):
        shares[f"statement_agreement_{kind}"] = [true for fact, true in facts if fact.kind == kind]
    return {name: sum(true) / len(true) for name, true in shares.items() if true}


def place_diversity(reference: dict, generated: dict, seed: int) -> Scores:
    """How far apart pictures of one caption place their objects, `place_diversity_floor` the same of real pictures.

    The root mean square distance of two pictures' centers, in sides of the picture; the center of a picture is the mean
    of its objects' places, as `diffax.data.scenes.find` sees them. A caption says how objects lie to each other, not
    where in the picture: a network that always answers with the same layout has 0. Pictures with another number of
    objects than was asked for are left out; real pictures are compared with others of as many objects.
    What these score is called `_floor` as in every metric; here it is the aim, and no least value.

    Args:
        reference: x0 of real pictures. generated: as of `caption_agreement`, several pictures of each caption.

    Raises:
        ValueError: no captions, or no two pictures of one caption that can be compared.
    """
    from diffax.data.scenes import parse

    if "caption" not in generated:
        raise ValueError("the metric 'place_diversity' needs captions: a data set such as shapes, a network told text")
    asked = np.asarray(generated["caption"])
    count = {text: parse(str(text)).count for text in set(asked)}
    places, found = _places(generated["x0"])
    right = found == [count[text] for text in asked]
    squares = squared_distances(places[right], asked[right])
    if not len(squares):
        raise ValueError("the metric 'place_diversity' needs several samples of a caption: set eval.each")
    real_places, real = _places(reference["x0"])
    alike = {n: squared_distances(real_places[real == n], real[real == n]) for n in set(count.values())}
    compared = [text for text, n in zip(*np.unique(asked[right], return_counts=True)) if n > 1]
    floor = np.concatenate([alike[count[text]] for text in compared])
    known = {"place_diversity_floor": float(np.sqrt(floor.mean()))} if len(floor) else {}
    return {"place_diversity": float(np.sqrt(squares.mean())), **known}


def _places(pictures):
    """(mean place of the objects of each picture [n, 2] in its sides, their number [n])."""
    from diffax.data.scenes import find

    objects = find(pictures)
    places = [np.mean([(item.x, item.y) for item in some] or [(0.0, 0.0)], axis=0) / 256 for some in objects]
    return np.array(places), np.array([len(some) for some in objects])
