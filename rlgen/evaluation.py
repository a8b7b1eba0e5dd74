"""The evaluator: greedy episodes on environments of its own, or figures on held-out data."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlgen.algorithm import Estimate, write_weights
from rlgen.batch import Batch, concatenate, to_tensors
from rlgen.config import Experiment
from rlgen.envs.filmed import FilmedEnv, film_env
from rlgen.envs.vector import Environments, Step
from rlgen.finite import Finite
from rlgen.generative import data, pictures
from rlgen.problem import build
from rlgen.rollout import act
from rlgen.videos import Shot, Video, make_video, steps_a_picture

Evaluation = dict[str, Any]
#: One step of an evaluation: (n,) bool the episodes that go on, observations, actions, what came.
Seen = tuple[np.ndarray, np.ndarray, np.ndarray, Step]
MAX_PARALLEL = 32
PICTURES = 64
FILMED = 500  # most steps of an episode's video during training
ROWS = 2_000  # per forward; bounds the memory, changes no figure


class Evaluator:
    """An actor: scores weights without touching the training's environments or random streams."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self.experiment = experiment
        self.seed = seed
        self.algorithm = build(experiment, seed)
        self.rows = data.load(experiment.data, experiment.seed) if experiment.data else None

    def evaluate(self, weights: np.ndarray, tick: int, split: str = "validation") -> Evaluation:
        """Score ``weights``: mean, standard deviation and count of returns or of a bound.

        Args:
            weights: flat shared weights.
            tick: the run's clock, which seeds this evaluation (the same tick, the same episodes).
            split: of a data set: ``"validation"`` or ``"test"``.
        """
        seed = self._prepare(weights, tick)
        return self._episodes(seed) if self.rows is None else self._data(split)

    def record(self, weights: np.ndarray, tick: int) -> tuple[Batch, Evaluation]:
        """The episodes that `evaluate` plays at the same tick, step by step, and their figures.

        Returns:
            The columns of a recording (`rlgen.demonstrations`), and the figures.
        """
        rounds: list[list[Seen]] = []
        evaluation = self._episodes(self._prepare(weights, tick), rounds)
        return _columns(rounds, self.algorithm.problem.action_space), evaluation

    def _prepare(self, weights: np.ndarray, tick: int) -> int:
        """Take the weights and begin the random streams of a tick; the environments' seed."""
        write_weights(self.algorithm, weights)
        seed = int(np.random.SeedSequence([self.seed, tick]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.algorithm.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        return seed

    def _episodes(self, seed: int, rounds: list[list[Seen]] | None = None) -> Evaluation:
        """One episode per environment and round: taking the first to end would favour the short."""
        assert self.experiment.env is not None
        config = self.experiment.evaluation
        number = min(config.episodes, MAX_PARALLEL)
        finite = self._finite(seed)
        env = Environments(self.experiment.env, number, seed, learning=False, finite=finite)
        returns, lengths = np.zeros(config.episodes), np.zeros(config.episodes, int)
        for first in range(0, config.episodes, env.num_envs):
            played = slice(first, min(first + env.num_envs, config.episodes))
            steps = self._play(env, config.max_steps, returns[played], lengths[played])
            if rounds is None:
                deque(steps, maxlen=0)
            else:
                rounds.append(list(steps))
        env.close()
        mended = {"not_finite": finite.tally.count} if finite.tally.count else {}
        return {
            "metric": "return",
            **_mean_and_deviation(returns),
            "episodes": config.episodes,
            "min": float(returns.min()),
            "max": float(returns.max()),
            "length": float(lengths.mean()),
            **mended,
        }

    def _finite(self, seed: int) -> Finite:
        """An episode is played to its end here: what training drops is mended."""
        assert self.experiment.env is not None
        fault = self.experiment.fault
        policy = "error" if fault.not_finite == "error" else "clip"
        return Finite(
            f"the evaluator: environment {self.experiment.env.id!r} (seed {seed})",
            fault.model_copy(update={"not_finite": policy}),
        )

    def film(
        self,
        weights: np.ndarray,
        tick: int,
        env: FilmedEnv,
        episodes: int,
        max_steps: int,
        env_steps: int | None = None,
    ) -> Iterator[Shot]:
        """Play episodes on an environment of its own, one after another, and show them.

        Args:
            weights: flat shared weights.
            tick: seeds the episodes.
            env: of the experiment (`rlgen.envs.filmed`).
            episodes: how many.
            max_steps: after which an episode is cut.
            env_steps: act as in training after so many steps of it; None: greedily.
        """
        assert self.experiment.env is not None
        seed = self._prepare(weights, tick)
        self.algorithm.env_steps = env_steps or 0
        finite = self._finite(seed)
        played = Environments(self.experiment.env, 1, seed, learning=False, finite=finite, env=env)
        for episode in range(1, episodes + 1):
            observation, starts = played.reset(), np.ones(1, np.bool_)
            yield Shot(env.pictures[0], episode, 0, 0.0, last=False, cut=False)
            return_, count, last = 0.0, 0, False
            while not last:
                env.pictures.clear()
                columns = act(self.algorithm, observation, starts, greedy=env_steps is None)
                step = played.step(columns["action"])
                observation, starts = step.observation, step.starts
                return_, count = return_ + float(step.reward[0]), count + int(step.valid[0])
                ended = bool(step.terminated[0] or step.truncated[0])
                last = ended or count >= max_steps
                if last and not env.pictures:
                    env.take()
                if env.pictures:
                    yield Shot(env.pictures[0], episode, count, return_, last, last and not ended)
            env.pictures.clear()
        played.close()

    def video(
        self,
        weights: np.ndarray,
        tick: int,
        format_: str = "gif",
        episodes: int = 1,
        max_steps: int = FILMED,
        fps: float | None = None,
        env_steps: int | None = None,
    ) -> Video:
        """Episodes as a file, or in a window (`rlgen.videos.make_video`).

        Args:
            weights: flat shared weights.
            tick: seeds the episodes.
            format_: of `rlgen.videos.FORMATS`.
            episodes: how many.
            max_steps: after which an episode is cut.
            fps: steps in a second of the video; None: as fast as the environment says.
            env_steps: as for `film`.

        Raises:
            ConfigError: the environment has no pictures, or something is not installed.
        """
        assert self.experiment.env is not None
        env = film_env(self.experiment.env)
        fps = env.fps if fps is None else fps
        env.every = steps_a_picture(format_, fps)
        shots = self.film(weights, tick, env, episodes, max_steps, env_steps)
        return make_video(shots, format_, fps)

    def _play(
        self, env: Environments, max_steps: int, returns: np.ndarray, lengths: np.ndarray
    ) -> Iterator[Seen]:
        """Add up one greedy episode in each of the first ``len(returns)`` environments."""
        observation, starts = env.reset(), np.ones(env.num_envs, np.bool_)
        running = np.ones(len(returns), bool)
        while running.any():
            action = act(self.algorithm, observation, starts, greedy=True)["action"]
            step = env.step(action)
            yield running.copy(), observation, action, step
            observation, starts = step.observation, step.starts
            returns += np.where(running, step.reward[: len(returns)], 0.0)
            lengths += running
            running &= ~(step.terminated | step.truncated)[: len(returns)]
            running &= lengths < max_steps

    def _data(self, split: str) -> Evaluation:
        assert self.rows is not None
        held_out = self._figures(split, self.rows.count(split))
        metric, scores = next(iter(held_out.items()))
        result = {"metric": metric, **_mean_and_deviation(scores), "rows": len(scores)}
        # The same number of training rows beside them: the gap between the two is overfitting.
        trained = self._figures("train", min(len(scores), self.rows.count("train")))
        for name, figures in (("train", trained), (split, held_out)):
            result |= {f"{name}_{key}": float(value.mean()) for key, value in figures.items()}
        return result

    def _figures(self, split: str, count: int) -> dict[str, np.ndarray]:
        """Per-row figures of the first ``count`` rows of a split."""
        assert self.rows is not None
        parts: list[dict[str, Any]] = []
        with torch.no_grad():
            for first in range(0, count, ROWS):
                columns = self.rows.columns(split, np.arange(first, min(first + ROWS, count)))
                parts.append(dict(self.algorithm.evaluate(to_tensors(columns))))
        return {k: np.concatenate([np.asarray(part[k]) for part in parts]) for k in parts[0]}

    def assess(self, weights: np.ndarray, tick: int, split: str, rows: int) -> dict[str, Estimate]:
        """All figures that apply to a model of data, as `rlgen.assessment.assess`.

        Args:
            weights: flat shared weights.
            tick: seeds the choice of the rows and the samples.
            split: ``"validation"`` or ``"test"``.
            rows: how many rows of it, at random.
        """
        from rlgen.assessment import assess  # what only this needs would slow every start

        assert self.rows is not None
        assert self.experiment.data is not None
        self._prepare(weights, tick)
        return assess(self.algorithm, self.rows, self.experiment.data.name, split, rows)

    def pictures(self, weights: np.ndarray) -> dict[str, bytes]:
        """Samples, and held-out rows with their reconstructions, as PNG files.

        Only what the model makes; always with the same random numbers.
        """
        assert self.rows is not None
        self._prepare(weights, 0)
        shape = self.algorithm.problem.data_shape
        count = min(PICTURES // 2, self.rows.count("validation"))
        originals = self.rows.rows("validation", np.arange(count))
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            if self.algorithm.has("sample"):
                samples = self.algorithm.sample(PICTURES).numpy()
                pictures.save_grid(Path(folder, "samples.png"), samples, shape)
            if self.algorithm.has("reconstruct"):
                made = self.algorithm.reconstruct(torch.from_numpy(originals)).numpy()
                path = Path(folder, "reconstructions.png")
                pictures.save_reconstructions(path, originals, made, shape)
            return {path.stem: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _columns(rounds: list[list[Seen]], action_space: gym.Space[Any] | None) -> Batch:
    """The steps of every round as columns, one episode after another."""
    parts: list[Batch] = []
    episodes = 0
    for seen in rounds:
        running = np.stack([step[0] for step in seen], axis=1)  # (n, T)
        count, lengths = len(running), running.sum(axis=1)
        rows = {
            "observation": [observation for _, observation, _, _ in seen],
            "action": [action for _, _, action, _ in seen],
            "reward": [step.reward for *_, step in seen],
            "terminated": [step.terminated for *_, step in seen],
        }
        columns = {k: np.stack(v, axis=1)[:count][running] for k, v in rows.items()}
        columns["truncated"] = np.zeros(len(columns["reward"]), np.bool_)
        last = lengths.cumsum() - 1
        columns["truncated"][last] = ~columns["terminated"][last]  # also what max_steps cut
        columns["episode"] = np.repeat(np.arange(episodes, episodes + count), lengths)
        final = [seen[length - 1][3].next_observation[i] for i, length in enumerate(lengths)]
        columns["last_observation"] = np.stack(final)
        episodes += count
        parts.append(columns)
    joined = concatenate(parts, 0)
    if isinstance(action_space, gym.spaces.Box):  # as the environment took it
        joined["action"] = joined["action"].clip(action_space.low, action_space.high)
    return joined


def _mean_and_deviation(scores: np.ndarray) -> dict[str, float]:
    return {"mean": float(scores.mean()), "std": float(scores.std())}
