"""The evaluator: greedy episodes on environments of its own, or figures on held-out data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlgen.algorithm import write_weights
from rlgen.config import Experiment
from rlgen.envs.vector import Environments
from rlgen.generative import data
from rlgen.problem import build
from rlgen.rollout import act

Evaluation = dict[str, Any]
MAX_PARALLEL = 32
PICTURES = 64
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
        write_weights(self.algorithm, weights)
        seed = int(np.random.SeedSequence([self.seed, tick]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.algorithm.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        return self._episodes(seed) if self.rows is None else self._data(split)

    def _episodes(self, seed: int) -> Evaluation:
        """One episode per environment and round: taking the first to end would favour the short."""
        assert self.experiment.env is not None
        config = self.experiment.evaluation
        env = Environments(self.experiment.env, min(config.episodes, MAX_PARALLEL), seed)
        returns, lengths = np.zeros(config.episodes), np.zeros(config.episodes, int)
        for first in range(0, config.episodes, env.num_envs):
            played = slice(first, min(first + env.num_envs, config.episodes))
            self._play(env, config.max_steps, returns[played], lengths[played])
        env.close()
        return {
            "metric": "return",
            **_mean_and_deviation(returns),
            "episodes": config.episodes,
            "min": float(returns.min()),
            "max": float(returns.max()),
            "length": float(lengths.mean()),
        }

    def _play(
        self, env: Environments, max_steps: int, returns: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Add up one greedy episode in each of the first ``len(returns)`` environments."""
        observation, starts = env.reset(), np.ones(env.num_envs, np.bool_)
        running = np.ones(len(returns), bool)
        while running.any():
            step = env.step(act(self.algorithm, observation, starts, greedy=True)["action"])
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
                x = self.rows.rows(split, np.arange(first, min(first + ROWS, count)))
                parts.append(dict(self.algorithm.evaluate({"x": torch.from_numpy(x)})))
        return {k: np.concatenate([np.asarray(part[k]) for part in parts]) for k in parts[0]}

    def pictures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Samples, and held-out rows with their reconstructions: ``(n, d)`` arrays each."""
        assert self.rows is not None
        write_weights(self.algorithm, weights)
        count = min(PICTURES // 2, self.rows.count("validation"))
        originals = self.rows.rows("validation", np.arange(count))
        with torch.no_grad():
            samples = self.algorithm.sample(PICTURES)
            reconstructions = self.algorithm.reconstruct(torch.from_numpy(originals))
        return {
            "samples": samples.numpy(),
            "originals": originals,
            "reconstructions": reconstructions.numpy(),
        }


def _mean_and_deviation(scores: np.ndarray) -> dict[str, float]:
    return {"mean": float(scores.mean()), "std": float(scores.std())}
