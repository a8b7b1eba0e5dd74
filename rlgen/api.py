"""The Python API: train, resume and load, as the command line does."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlgen import checkpoint, config, demonstrations, rundir, storage, videos
from rlgen.algorithm import Algorithm, Estimate, write_weights
from rlgen.backends.host import Host
from rlgen.config import RESUMABLE, Experiment
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError, did_you_mean
from rlgen.evaluation import Evaluation
from rlgen.generative import data, decoding, text
from rlgen.problem import build, role_seed
from rlgen.rollout import act
from rlgen.scheduler import Scheduler, Summary, read_run_part
from rlgen.videos import Video

METHODS = ("ancestral", "greedy", "beam")  # by which texts are made
HELD_OUT = ("validation", "test")  # splits


def warn(message: str) -> None:
    """Print a warning."""
    print(f"rlgen: {message}", file=sys.stderr)


def train(
    experiment: str | Mapping[str, Any] | Experiment,
    overrides: Mapping[str, Any] | None = None,
    **more: Any,
) -> Run:
    """Train and return the finished run.

    Args:
        experiment: a ready configuration's name, a YAML file, its plain data, or an `Experiment`.
        overrides: dotted keys, such as ``{"stop.env_steps": 10_000}``.
        **more: overrides of undotted keys, such as ``seed=3``.

    Raises:
        RlgenError: anything that one message explains.
    """
    if isinstance(experiment, Experiment):
        plain = experiment.dump()
    elif isinstance(experiment, str):
        plain = config.read_config(experiment)
    else:
        plain = dict(experiment)
    plain = config.set_keys(plain, {**(overrides or {}), **more})
    scheduler = Scheduler(config.resolve_experiment(plain), warn=warn)
    summary = scheduler.run()
    return Run(scheduler.run_dir, summary)


def prepare_resume(
    run_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = warn,
) -> tuple[Experiment, Path]:
    """The experiment and the checkpoint with which a run goes on.

    The checkpoint lies in the run's folder, ``FOLDER/checkpoints/NAME``: for a run that is given by
    its URI, the folder into which it has been fetched.

    Raises:
        CheckpointError: not a run, or no undamaged checkpoint.
        ConfigError: an override that would make it another experiment.
    """
    path = storage.localized(run_dir, say)
    for key in overrides or {}:
        if key.partition(".")[0] not in RESUMABLE:
            raise ConfigError(
                f"{key}: a resumed run may change {', '.join(RESUMABLE)}; start a new run for this"
            )
    plain = config.set_keys(rundir.read_plain(path), overrides or {})
    return config.resolve_experiment(plain), checkpoint.latest(path / rundir.CHECKPOINTS, say)


def resume(run_dir: str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """Go on with a run from its latest checkpoint.

    Raises:
        RlgenError: as `prepare_resume` and `train`.
    """
    experiment, folder = prepare_resume(run_dir, overrides)
    path = folder.parent.parent
    return Run(path, Scheduler(experiment, warn=warn).run(path, folder))


def load(run_dir: str | Path) -> Run:
    """Open a run, by its folder or its URI, to act, sample or evaluate with its latest weights.

    Raises:
        CheckpointError: not a run, or no undamaged checkpoint.
        ConfigError: the storage of a URI cannot be read.
    """
    return Run(storage.localized(run_dir, warn))


class Run:
    """A run on disk: its summary, and its algorithm with the latest weights."""

    def __init__(self, run_dir: Path, summary: Summary | None = None) -> None:
        self.dir = run_dir
        self.experiment = rundir.read_experiment(run_dir)
        self.summary = summary if summary is not None else rundir.read_summary(run_dir)
        self.checkpoint = checkpoint.latest(run_dir / rundir.CHECKPOINTS, warn)
        read_run_part(self.checkpoint, self.experiment)
        _, arrays = checkpoint.read_part(self.checkpoint, "weights")
        self.weights = arrays["weights"]
        self._algorithm: Algorithm | None = None
        self._env: Environments | None = None  # for its numbering of observations and actions

    def __repr__(self) -> str:
        return f"Run({str(self.dir)!r})"

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm with the run's weights."""
        if self._algorithm is None:
            self._algorithm = build(self.experiment, self.experiment.seed)
            write_weights(self._algorithm, self.weights)
        return self._algorithm

    def act(self, observation: Any, start: bool = False) -> Any:
        """The greedy action for one observation, both in the environment's own form.

        With ``env.frame_stack`` above 1, the observation is the stack of the latest ones. ``start``
        says that an episode begins, so that a policy with a memory forgets the one before.

        Raises:
            ConfigError: the run is of a generative model.
        """
        config = self.experiment.env
        if config is None:
            raise ConfigError(f"{self.dir} is a run of {self.experiment.algorithm}; use sample()")
        starts = np.array([start or self._env is None])
        if self._env is None:
            self._env = Environments(config, 1, seed=0)
        frames = np.asarray(observation)
        rows = self._env.from_env(frames if config.frame_stack > 1 else frames[None])
        batch = rows.reshape(1, *(self._env.observation_space.shape or ()))
        action = self._env.to_env(act(self.algorithm, batch, starts, greedy=True)["action"])[0]
        return action if action.shape else action.item()

    def sample(self, n: int, label: int | None = None) -> np.ndarray:
        """``(n, *shape)`` draws of a generative model, of one label where it is conditional.

        Raises:
            ConfigError: a label that the model does not know, or has no use for.
        """
        _check_counts(n=n)
        algorithm = self.algorithm
        if not algorithm.has("sample"):
            name = self.experiment.algorithm
            raise ConfigError(f"sample: {self.dir} trained {name}, which does not sample")
        with torch.no_grad():
            if label is None:
                return self._shaped(algorithm.sample(n))
            labels = torch.full((n,), self._checked(label))
            return self._shaped(algorithm.sample_labelled(labels))

    def walk(self, n: int, steps: int, label: int | None = None) -> np.ndarray:
        """``(n, steps, *shape)``: what codes on the line between two others stand for.

        The ends are draws of the prior, where the model has one, and else the codes of held-out
        rows. A model that is told labels is told one for each walk: 0, 1, 2, ... in turn.

        Args:
            n: how many walks.
            steps: of each, both ends included.
            label: of all walks.

        Raises:
            ConfigError: the model has no codes; it has learned no labels, or not this one.
        """
        _check_counts(n=n, steps=steps)
        algorithm = self.algorithm
        if not algorithm.has("decode") or not (algorithm.has("prior") or algorithm.has("encode")):
            raise ConfigError(
                f"walk: {self.dir} trained {self.experiment.algorithm}, which has no codes to walk "
                "between; draw samples instead"
            )
        with torch.no_grad():
            if algorithm.has("prior") or self.experiment.data is None:
                ends = algorithm.prior(2 * n)
            else:
                rows = data.load(self.experiment.data, self.experiment.seed)
                chosen = np.random.default_rng(self.experiment.seed).integers(
                    rows.count("test"), size=2 * n
                )
                ends = algorithm.encode(torch.from_numpy(rows.rows("test", chosen)))
            share = torch.linspace(0, 1, steps)[:, None, None]
            codes = ((1 - share) * ends[:n] + share * ends[n:]).reshape(steps * n, -1)
            if self.conditional:
                labels = torch.arange(n) % algorithm.problem.data_classes
                if label is not None:
                    labels = torch.full((n,), self._checked(label))
                walked = algorithm.decode_labelled(codes, labels.repeat(steps))
            elif label is None:
                walked = algorithm.decode(codes)
            else:
                raise ConfigError(f"label: {self.dir} has learned none to walk within")
            return self._shaped(walked.reshape(steps, n, -1).swapaxes(0, 1))

    @property
    def conditional(self) -> bool:
        """Whether the model is told the labels of what it decodes."""
        told = getattr(self.algorithm.config, "conditional", False)
        return bool(told) and self.algorithm.has("decode_labelled")

    def _checked(self, label: int) -> int:
        classes = self.algorithm.problem.data_classes
        if not 0 <= label < classes:
            raise ConfigError(
                f"sample: there is no label {label}; the data has {classes} labels, from 0"
            )
        return label

    def chain(self, n: int, frames: int, every: int | None = None) -> np.ndarray:
        """``(frames, n, *shape)``: every so many states of n chains that sample.

        A chain that ends earlier gives fewer frames; its last state is always the last frame.

        Args:
            n: how many chains.
            frames: at most so many.
            every: states a frame. None: one, or of a chain that ends, such as a diffusion's, frames
                evenly spread from its beginning to its end.

        Raises:
            ConfigError: the model does not sample by a chain.
        """
        _check_counts(n=n, frames=frames, every=every)
        shown: list[np.ndarray] = []
        with torch.no_grad():
            if every is None and self.algorithm.chain_ends:
                states = list(self.algorithm.chain(n))
                picked = np.linspace(0, len(states) - 1, min(frames, len(states))).round()
                return np.stack([self._shaped(states[int(i)]) for i in picked])
            every = 1 if every is None else every
            for number, state in enumerate(self.algorithm.chain(n)):
                last, kept = state, number % every == 0
                if kept:
                    shown.append(self._shaped(state))
                    if len(shown) == frames:
                        break
            else:
                if not kept:
                    shown.append(self._shaped(last))
        return np.stack(shown)

    def unknown(self, prompt: str) -> list[str]:
        """The tokens of a prompt that a language model has not learned, each once."""
        config = self.experiment.data
        assert config is not None
        known = set(self.algorithm.problem.data_vocabulary)
        return [t for t in dict.fromkeys(text.tokenize(prompt, config.tokens)) if t not in known]

    def texts(
        self,
        n: int = 1,
        prompt: str = "",
        length: int | None = None,
        method: str = "ancestral",
        temperature: float = 1.0,
        beams: int = 4,
    ) -> list[str]:
        """Texts of a language model, each the prompt with ``length`` tokens more, none ``<unk>``.

        Args:
            n: how many. ``greedy`` has one; the n likeliest that ``beam`` found come in order.
            prompt: what they begin with; tokens that the model does not know become ``<unk>``.
            length: tokens to add; as many as a row of the training data by default.
            method: ``ancestral`` draws, ``greedy`` takes the likeliest token each time, ``beam``
                keeps the likeliest continuations (`rlgen.generative.decoding`).
            temperature: of ``ancestral``.
            beams: the width of ``beam``.

        Raises:
            ConfigError: the model is not one of texts; no such method; more texts than it finds.
        """
        _check_counts(n=n, length=length, beams=beams)
        if not temperature > 0:
            raise ConfigError(f"temperature: expected a number greater than 0, got {temperature}")
        algorithm, config = self.algorithm, self.experiment.data
        if config is None or not algorithm.uses_text:
            raise ConfigError(f"{self.dir} is a run of {self.experiment.algorithm}, not of texts")
        most = {"greedy": 1, "beam": beams}.get(method, n)
        if n > most:
            wider = ", or for more beams" if method == "beam" else ""
            raise ConfigError(f"{n} texts: {method} search finds {most}; ask for fewer{wider}")
        vocabulary, length = algorithm.problem.data_vocabulary, length or config.window
        ids = text.encode(text.tokenize(prompt, config.tokens), vocabulary)
        prefix = torch.from_numpy(ids)
        unknown = vocabulary.index(text.UNKNOWN)  # no text of anyone's
        predict = decoding.without(algorithm.next_log_prob, unknown)
        with torch.no_grad():
            if method == "beam":
                rows, _ = decoding.beam_search(predict, prefix, length, beams)
            elif method == "greedy":
                rows = decoding.greedy(predict, prefix[None], length)
            elif method == "ancestral":
                rows = decoding.ancestral(predict, prefix.repeat(n, 1), length, temperature)
            else:
                raise ConfigError(f"method: there is no {method!r}{did_you_mean(method, METHODS)}")
        return [text.detokenize([vocabulary[i] for i in row], config.tokens) for row in rows[:n]]

    def _shaped(self, rows: torch.Tensor) -> np.ndarray:
        """Rows ``(..., d)`` as arrays ``(..., *shape)``."""
        return rows.numpy().reshape(*rows.shape[:-1], *self.algorithm.problem.data_shape)

    def evaluate(
        self, episodes: int | None = None, split: str = "test", tick: int = 0
    ) -> Evaluation:
        """Greedy episodes, or figures on a split of the data: mean, std, count.

        Args:
            episodes: how many; None for as many as in training.
            split: of the data: ``"validation"`` or ``"test"``.
            tick: another number, other episodes.

        Raises:
            ConfigError: there is no such split.
        """
        _check_split(split)
        evaluation: Evaluation = self._ask_evaluator(episodes, "evaluate", tick, split)
        return evaluation

    def assess(self, rows: int = 1_000, split: str = "test", tick: int = 0) -> dict[str, Estimate]:
        """All figures that apply to a generative model (`rlgen.assessment`), with their errors.

        Args:
            rows: held-out rows to look at, and samples to draw.
            split: of the data: ``"validation"`` or ``"test"``.
            tick: another number, other rows and samples.

        Raises:
            ConfigError: the run is of an agent, or there is no such split.
        """
        _check_counts(rows=rows)
        _check_split(split)
        if self.experiment.data is None:
            raise ConfigError(
                f"assess: {self.dir} trained the agent {self.experiment.algorithm}; evaluate() "
                "gives its return"
            )
        figures: dict[str, Estimate] = self._ask_evaluator(None, "assess", tick, split, rows)
        return figures

    def record(
        self, output: str | Path, episodes: int = 10, seed: int = 0, overwrite: bool = False
    ) -> Evaluation:
        """Record greedy episodes to learn from (`rlgen.demonstrations`); their figures.

        Args:
            output: the file to write, ``NAME.npz``.
            episodes: how many.
            seed: another number, other episodes; those of `evaluate` with this tick.
            overwrite: whether an existing file is replaced.

        Raises:
            ConfigError: the run is of a generative model, or the file cannot be written.
        """
        env = self.experiment.env
        if env is None:
            raise ConfigError(
                f"record: {self.dir} trained the model {self.experiment.algorithm}; only agents "
                "play episodes"
            )
        path = Path(output)
        if path.suffix != ".npz":
            raise ConfigError(f"record: expected a name that ends in .npz, got {str(output)!r}")
        if not path.parent.is_dir():
            raise ConfigError(f"record: there is no folder {str(path.parent)!r}")
        if path.exists() and not overwrite:
            raise ConfigError(f"record: {str(output)!r} exists already; --force replaces it")
        columns, evaluation = self._ask_evaluator(episodes, "record", seed)
        problem = self.algorithm.problem
        spaces = {"observation": problem.observation_space, "action": problem.action_space}
        about = {
            "env": {"id": env.id, "kwargs": env.kwargs, "frame_stack": env.frame_stack},
            **{f"{k}_space": demonstrations.describe(v) for k, v in spaces.items() if v},
            "algorithm": self.experiment.algorithm,
            "seed": seed,
        }
        demonstrations.save(path, columns, about)
        evaluation["steps"] = len(columns["reward"])
        return evaluation

    def play(
        self,
        episodes: int = 1,
        seed: int = 0,
        format: str = "gif",
        max_steps: int = 1_000,
        fps: float | None = None,
        explore: bool = False,
    ) -> Video:
        """Play episodes of an agent, and film them; in a notebook the result shows itself.

        Args:
            episodes: how many.
            seed: another number, other episodes.
            format: ``gif``, ``mp4``, or ``window``: shown on the screen, and not kept.
            max_steps: after which an episode is cut.
            fps: steps in a second of the video; None: as fast as the environment says.
            explore: act as at the end of the training; else greedily.

        Raises:
            ConfigError: the run is of a generative model, its environment has no pictures, there is
                no such format or no screen, or something that is needed is not installed.
        """
        if self.experiment.env is None:
            raise ConfigError(
                f"play: {self.dir} trained the model {self.experiment.algorithm}; only agents play "
                "episodes, models have samples (rlgen sample)"
            )
        _check_counts(episodes=episodes, max_steps=max_steps)
        if fps is not None and not 0 < fps < math.inf:
            raise ConfigError(f"fps: expected a finite number greater than 0, got {fps}")
        if format not in videos.FORMATS:
            hint = did_you_mean(format, videos.FORMATS)
            raise ConfigError(f"format: there is no {format!r}{hint}")
        plain, _ = read_run_part(self.checkpoint, self.experiment)
        env_steps = plain["counters"]["env_steps"] if explore else None
        settings = (format, episodes, max_steps, fps, env_steps)
        video: Video = self._ask_evaluator(None, "video", seed, *settings)
        return video

    def _ask_evaluator(self, episodes: int | None, method: str, *args: Any) -> Any:
        """Call an evaluator in a host, as in a run: the caller's random state stays as it is."""
        changes = {} if episodes is None else {"evaluation.episodes": episodes}
        experiment = config.resolve_experiment(config.set_keys(self.experiment.dump(), changes))
        seed = role_seed(experiment.seed, "evaluator")
        host = Host("rlgen.evaluation:Evaluator", (experiment, seed), seed, threads=1)
        host.start()
        return host.call(method, self.weights, *args)


def _check_counts(**counts: int | None) -> None:
    """Refuse those that are less than 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name}: expected at least 1, got {count}")


def _check_split(split: str) -> None:
    """Refuse what is no split of held-out rows."""
    if split not in HELD_OUT:
        raise ConfigError(f"split: there is no {split!r}{did_you_mean(split, HELD_OUT)}")
