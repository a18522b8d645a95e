from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minitron.models.families import FAMILIES
from minitron.report.score_figures import KIND_COLORS, draw_scores


@pytest.mark.figures
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_every_axis_and_the_blocks_get_a_picture(tmp_path: Path, shift: float) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "hidden_size": {"all blocks": rng.random(300)},
        "intermediate_size": {"block 1": rng.random(40), "block 4": np.zeros(40)},
        "mamba_num_heads": {"block 0": rng.random(6)},
    }
    draw_scores(rows, rng.random(5) * 100 + shift, "M-*M-", tmp_path, kinds=FAMILIES["nemotron_h"].block_kinds)
    for name in (*rows, "depth"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 100
            low, high = picture.convert("L").getextrema()
            assert low < high


def test_every_kind_of_block_has_a_color_of_its_own_within_its_family() -> None:
    for family in FAMILIES.values():
        colors = [KIND_COLORS[kind] for kind in family.block_kinds]
        assert len(set(colors)) == len(colors)
