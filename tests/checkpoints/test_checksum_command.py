"""`mrl-jax checksum`: files compared, and digests written anew after a change that was meant."""

import json
from pathlib import Path

import pytest
from descriptions import unsealed
from tiny_run import make_model

from mrl_jax.checkpoints.checksum_command import main
from mrl_jax.checkpoints.models import load_model, read_model_info
from mrl_jax.checkpoints.towers import load_qwen3, read_info
from mrl_jax.core.checksums import UnverifiedWarning
from mrl_jax.core.errors import MrlError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_model(tmp_path)
    return tmp_path


def edited(path: Path, **config: object) -> None:
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "config": {**raw["config"], **config}}))


def test_an_edited_tower_is_refused_until_it_is_stamped_and_is_another_then(root, capsys):
    tower = root / "towers" / "text"
    assert main([str(tower), str(root / "model")]) == 0
    assert "tower.json: as written" in capsys.readouterr().out
    before = read_info(tower)
    edited(tower / "tower.json", rope_theta=5e5)
    for read in (lambda: load_qwen3(tower), lambda: main([str(tower)])):
        with pytest.raises(MrlError, match=r"tower\.json: is not the descr.*checksum --update"):
            read()
    main(["--update", str(tower)])
    main([str(tower)])
    after = read_info(tower)
    assert after.config.rope_theta == 5e5
    assert after.weights_digest == before.weights_digest
    assert after.digest != before.digest
    assert load_qwen3(tower).config.rope_theta == 5e5
    with pytest.raises(MrlError, match="is not the text tower that the model was trained with"):
        load_model(root / "model", read_model_info(root / "model"))
    edited(tower / "tower.json", rope_theta=before.config.rope_theta)
    main(["--update", str(tower)])
    assert read_info(tower) == before


def test_sizes_that_the_weights_do_not_have_are_not_stamped(root):
    tower = root / "towers" / "text"
    edited(tower / "tower.json", mlp_width=99)
    with pytest.raises(MrlError, match=r"its sizes make .* and the weights have it as"):
        main(["--update", str(tower)])


def test_an_edited_small_file_is_told_and_not_without_verification(root):
    tower = root / "towers" / "text"
    (tower / "tokenizer.json").write_text((tower / "tokenizer.json").read_text() + " ")
    with pytest.raises(MrlError, match=r"tokenizer\.json: is not the file that was written"):
        load_qwen3(tower)
    load_qwen3(tower, verify=False)
    main(["--update", str(tower)])
    load_qwen3(tower)


def test_a_tower_from_before_digests_is_loaded_and_that_is_said_once(root):
    tower, model = root / "towers" / "text", root / "model"
    path = tower / "tower.json"
    info = read_info(tower)
    weights = {"digest": info.weights_digest, "weights_digest": "", "files": {}}
    path.write_text(unsealed(path, **weights))
    text = {"path": "../towers/text", "digest": info.weights_digest}
    (model / "model.json").write_text(unsealed(model / "model.json", text=text))
    with pytest.warns(UnverifiedWarning, match="text was written without digests") as told:
        load_model(model, read_model_info(model))
    assert len(told) == 1
    main(["--update", str(tower)])
    # The model names the weights alone, which are the same.
    load_model(model, read_model_info(model))


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(MrlError, match="holds nothing that has digests"):
        main([str(tmp_path)])
