"""The command ``rlgen export``: what a run has learned, for programs that do without rlgen."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import tempfile
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rlgen.command import AsJson, Debug, RunDir, replying
from rlgen.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rlgen.api import Run

CONFIG, CARD = "config.yaml", "README.md"
ROWS = (1, 3, 8)  # batch sizes for which an exported function is compared with the run's
TOLERANCE = 1e-4  # of the largest absolute value of the outputs, or of 1


class Format(StrEnum):
    """What can be written."""

    safetensors = "safetensors"
    torchscript = "torchscript"
    onnx = "onnx"


ENDINGS = {Format.safetensors: "safetensors", Format.torchscript: "pt", Format.onnx: "onnx"}


def export(
    run: RunDir,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write into")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Weights by name, or the function: greedy actions of observations, rows of codes",
        ),
    ] = Format.safetensors,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/REPO", help="Also upload it to the Hugging Face Hub, private"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Export an agent's policy or a model, with its configuration and a card; or to a hub."""
    with replying(as_json, debug) as answer:
        check_packages(format_, push)
        from rlgen.api import load

        loaded = load(run)
        written = write(loaded, output, format_, force)
        answer |= {"run_dir": str(run), "files": [str(path) for path in written]}
        for path in written:
            print(path)
        if push is not None:
            answer["url"] = upload(push, output, [path.name for path in written])
            print(f"{answer['url']} (private until you say otherwise there)")
        print(f"next: read {output / CARD}, and add a licence before you give it away")


def check_packages(format_: Format, push: str | None) -> None:
    """Refuse what needs packages that are not there, and names that are none.

    Raises:
        ConfigError: with the line that installs them.
    """
    needed: dict[str, tuple[str, ...]] = {
        "onnx": ("onnx", "onnxscript") if format_ is Format.onnx else (),
        "hub": ("huggingface_hub",) if push is not None else (),
    }
    for extra, packages in needed.items():
        for package in packages:
            if importlib.util.find_spec(package) is None:
                option = "--format onnx" if extra == "onnx" else "--push"
                raise ConfigError(
                    f"{option}: needs {package}, which is missing; pip install 'rlgen[{extra}]'"
                )
    if push is not None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(push)
        except HFValidationError:
            push = ""
        if push.count("/") != 1:
            raise ConfigError(
                "--push: expected USER/REPO, letters, digits, '-', '_' and '.', such as "
                "ada/dqn-cartpole"
            )


def write(run: Run, folder: Path, format_: Format, force: bool = False) -> list[Path]:
    """Export a run into a folder, which is made where it is missing.

    Args:
        run: of which the latest weights are taken.
        folder: where to.
        format_: weights by name, or the function itself; that is compared with the run's.
        force: whether existing files are replaced.

    Returns:
        The files written.

    Raises:
        ConfigError: the run has no such function, a file exists or cannot be written.
    """
    import yaml

    from rlgen import card

    stem = "weights" if format_ is Format.safetensors else name_of(run)
    names = [f"{stem}.{ENDINGS[format_]}", CONFIG, CARD]
    existing = [name for name in names if (folder / name).exists()]
    if existing and not force:
        raise ConfigError(
            f"-o: {str(folder)!r} has {', '.join(existing)} already; give another folder, or "
            "--force to replace them"
        )
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / names[0]
        shape = _write_weights(run, path)
        if format_ is not Format.safetensors:
            path.unlink(missing_ok=True)
            shape = _write_function(run, path, format_)
        plain = portable(run.experiment.dump())
        (Path(aside) / CONFIG).write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")
        (Path(aside) / CARD).write_text(card.render(run, names[0], shape), "utf-8")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copyfile(Path(aside) / name, folder / name)
        except OSError as error:
            raise ConfigError(f"-o: cannot write to {str(folder)!r}: {error.strerror}") from error
    return [folder / name for name in names]


def name_of(run: Run) -> str:
    """What the exported function is called.

    Raises:
        ConfigError: the run has no function that could be exported, and why.
    """
    algorithm, name = run.algorithm, run.experiment.algorithm
    advice = "--format safetensors writes its weights"
    if not algorithm.on_tensors:
        what = "a table" if run.experiment.data is None else "arrays"
        raise ConfigError(f"--format: {name} learned {what}, no network; {advice}")
    if run.experiment.data is None or algorithm.uses_demonstrations:
        network = run.experiment.network
        if network is not None and network.memory != "none":
            raise ConfigError(
                f"--format: the policy of {run.dir} has a memory ({network.memory}), so its action "
                f"is no function of the observation alone; {advice}"
            )
        return "policy"
    if algorithm.uses_text:
        raise ConfigError(f"--format: {name} makes texts token by token, by a search; {advice}")
    if algorithm.chain_ends or not algorithm.has("decode"):
        by = "a chain of many steps" if algorithm.has("chain") else "random draws"
        raise ConfigError(
            f"--format: {name} makes rows by {by}, not by a function of codes; {advice}"
        )
    return "decoder"


def portable(plain: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the paths of this machine: of files, only their names are left."""
    plain = {key: value for key, value in plain.items() if key not in ("run", "tracking")}
    for section, key in (("data", "name"), ("demonstrations", "path")):
        if section in plain:
            given = {k: v for k, v in plain[section].items() if k != "root"}
            if Path(given[key]).is_absolute():
                given[key] = Path(given[key]).name
            plain[section] = given
    return plain


def _write_weights(run: Run, path: Path) -> tuple[int, ...]:
    """The shared weights by their names; the shape of the largest."""
    from torch import nn

    shared = getattr(run.algorithm, run.algorithm.shared)
    if isinstance(shared, nn.Module):
        from safetensors.torch import save_file

        tensors = {k: v.detach().clone().contiguous() for k, v in shared.state_dict().items()}
        save_file(tensors, path)
        return max((tuple(v.shape) for v in tensors.values()), key=len, default=())
    import numpy as np
    from safetensors.numpy import save_file as save_arrays

    array = np.ascontiguousarray(shared)
    save_arrays({run.algorithm.shared: array}, path)
    return array.shape


def _write_function(run: Run, path: Path, format_: Format) -> tuple[int, ...]:
    """The function, looked at again as it was written; the shape of one input."""
    import torch

    function, inputs = function_of(run)
    was_training = [module for module in function.modules() if module.training]
    function.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch will do in other releases
            expected = {n: function(inputs[:n]) for n in ROWS}
            if format_ is Format.torchscript:
                again = _to_torchscript(function, inputs[:2], path)
            else:
                again = _to_onnx(function, inputs[:2], path)
            for n, wanted in expected.items():
                _compare(run, again(inputs[:n]), wanted)
    finally:
        for module in was_training:
            module.training = True
    return tuple(inputs.shape[1:])


def function_of(run: Run) -> tuple[nn.Module, torch.Tensor]:
    """What is exported, and 8 rows ``(8, ...)`` that it can be called with.

    Of an agent: the greedy action of each observation, in the environment's numbering and bounds.
    Of a model: the row of each code.
    """
    import numpy as np
    import torch
    from torch import nn

    algorithm, env = run.algorithm, run.experiment.env

    class Function(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = getattr(algorithm, algorithm.shared)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return algorithm.decode(rows)

    if env is None:
        codes = algorithm.prior(ROWS[-1]) if algorithm.has("prior") else None
        if codes is None:
            codes = algorithm.encode(torch.zeros(1, int(np.prod(algorithm.problem.data_shape))))
            codes = torch.rand(ROWS[-1], codes.shape[1])
        return Function(), codes.detach()

    from gymnasium.spaces import Box

    from rlgen.envs.vector import Environments

    environments = Environments(env, 1, seed=0)
    observations, actions = environments.observation_space, environments.action_space
    low = high = None
    if isinstance(actions, Box) and np.issubdtype(actions.dtype, np.floating):
        low, high = torch.from_numpy(actions.low), torch.from_numpy(actions.high)
    # Where the environment counts from another number than 0.
    first = environments.to_env(np.zeros((1, *(actions.shape or ())), actions.dtype))[0]
    offset = torch.from_numpy(np.asarray(first, np.int64))
    given = environments.env.single_observation_space
    zero = environments.from_env(np.zeros((1, *(given.shape or ())), given.dtype))[0]
    shift = np.stack([zero] * env.frame_stack).reshape(observations.shape or ())
    shifted = bool(shift.any())
    environments.close()
    algorithm.starts = np.ones(1, np.bool_)

    class Policy(Function):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            rows = rows + torch.from_numpy(shift) if shifted else rows
            action = algorithm.act(rows, True)["action"]
            return action + offset if low is None else action.clamp(low, high)

    observations.seed(0)
    rows = np.stack([observations.sample() for _ in range(ROWS[-1])]) - shift
    return Policy(), torch.from_numpy(rows)


def _to_torchscript(function: nn.Module, rows: torch.Tensor, path: Path) -> Any:
    import torch

    traced = torch.jit.trace(function, (rows,), check_trace=False)
    torch.jit.freeze(traced).save(str(path))
    return torch.jit.load(str(path))


def _to_onnx(function: nn.Module, rows: torch.Tensor, path: Path) -> Any:
    import logging

    import torch
    from onnx.reference import ReferenceEvaluator

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of unused operators
    kind = path.stem
    given, made = ("observation", "action") if kind == "policy" else ("code", "row")
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        function, (rows,), dynamo=True, verbose=False,
        input_names=[given], output_names=[made], dynamic_shapes=({0: batch},),
    )  # fmt: skip
    assert program is not None
    program.save(str(path), external_data=False)
    evaluator = ReferenceEvaluator(str(path))

    def run(x: torch.Tensor) -> torch.Tensor:
        (found,) = cast(list[Any], evaluator.run(None, {given: x.numpy()}))
        return torch.from_numpy(found)

    return run


def _compare(run: Run, got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a function that is not the run's.

    Raises:
        ConfigError: their outputs differ.
    """
    if got.shape == wanted.shape:
        scale = max(float(wanted.abs().max()), 1.0)
        if float((got.double() - wanted.double()).abs().max()) <= TOLERANCE * scale:
            return
    raise ConfigError(
        f"--format: what was written of {run.experiment.algorithm} does not compute what the run "
        "does (it depends on more than its input); --format safetensors writes its weights"
    )


def upload(repo: str, folder: Path, names: list[str]) -> str:
    """Upload files to a repository of the Hugging Face Hub, made private where it is missing.

    Returns:
        Its address.

    Raises:
        ConfigError: the hub cannot be reached, or does not know who is asking.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, commit_message="rlgen export"
        )
    except Exception as error:  # of whichever HTTP library it uses, or of a missing token
        response = error.response if isinstance(error, HfHubHTTPError) else None
        status = "" if response is None else f" {response.status_code}"
        reason = f"{type(error).__name__}{status}"
        raise ConfigError(
            f"--push: {repo!r} could not be uploaded ({reason}); the files are in {str(folder)!r}. "
            "Is there a network, and a token with write access ('hf auth login')? "
            f"Later: hf upload {repo} {shlex.quote(str(folder))}"
        ) from error
    return str(url)
