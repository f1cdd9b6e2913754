import pytest
from toy_run import toy_config

from detkit.config import load_config
from detkit.engine.resume.run_folder import check_run_folder, stored_config, write_config
from detkit.registry import ConfigError


def begin(config, out):
    resolved = check_run_folder(config, out)
    write_config(resolved, out)
    return resolved


def test_a_run_folder_stores_the_resolved_config(tmp_path):
    resolved = begin(toy_config(), tmp_path / "deep" / "run")
    assert resolved["train"]["seed"] == 42
    assert stored_config(tmp_path / "deep" / "run") == load_config(tmp_path / "deep" / "run" / "config.py") == resolved


def test_a_used_folder_needs_resume(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty: resume the run in it \(--resume\), or name another.*--out"):
        check_run_folder(toy_config(), tmp_path)
    with pytest.raises(ConfigError, match="holds no run to resume"):
        check_run_folder(toy_config(), tmp_path, resume=True)
    with pytest.raises(ConfigError, match="is a file"):
        check_run_folder(toy_config(), tmp_path / "notes.txt")


def test_resume_accepts_a_longer_run_and_refuses_another_one(tmp_path):
    begin(toy_config(), tmp_path)
    other = toy_config(train__epochs=9, train__seed=1, data__workers=1, model=dict(type="ToyModel", dropout=0.5))
    assert check_run_folder(other, tmp_path, resume=True)["train"]["seed"] == 1  # nothing was trained yet
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_00000001.safetensors").touch()
    assert check_run_folder(toy_config(train__epochs=9, data__workers=1), tmp_path, resume=True)["train"]["epochs"] == 9
    with pytest.raises(ConfigError) as error:
        check_run_folder(other, tmp_path, resume=True)
    assert "model.dropout: None in the run, 0.5 now" in str(error.value)
    assert "train.seed: 42 in the run, 1 now" in str(error.value) and "epochs" not in str(error.value)
