"""Do generated pictures show what their captions say? The checker of the data set `shapes` is the judge."""

from diffax.metrics.scores import Scores

_NUMBERS = {1: "one", 2: "two", 3: "three"}


def caption_agreement(reference: dict, generated: dict, seed: int) -> Scores:
    """The share of pictures that are wholly right by `diffax.data.shapes.check`, and the shares of single statements.

    `caption_agreement` is of all pictures, `caption_agreement_one`, `_two` and `_three` of those whose caption asks for
    so many objects, `statement_agreement` is of all statements, and `statement_agreement_color`, `_count`, `_relation`,
    `_shape`, `_size` of those of a kind; what no caption asks for is left out. Real pictures score 1.

    Args:
        generated: x0 float [n, side, side, 3] in [-1, 1], and caption, n texts in the grammar of `shapes`.

    Raises:
        ValueError: no captions; one that the grammar does not have.
    """
    from diffax.data.shapes import check_all, parse

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
