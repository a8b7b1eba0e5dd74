"""Options: SMDP Q-learning over ways to the hallways of rooms."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np

from rlgen.agents import planning
from rlgen.agents.hallways import OptionTable, find_rooms, hallway_options, primitive_options
from rlgen.algorithm import Algorithm, Metrics, Model, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Rate
from rlgen.errors import ConfigError


class OptionsConfig(Hyperparameters):
    """Hyper-parameters of SMDP Q-learning."""

    gamma: Fraction = 0.9  # discount per step, in [0, 1]
    learning_rate: Rate = 0.125  # alpha, in (0, 1]
    epsilon: Fraction = 0.1  # share of random options, in [0, 1]
    options: Literal["both", "hallways", "primitive"] = "both"  # what can be chosen
    rollout_steps: Count = 16  # T, steps per environment and cycle


class Options(Algorithm):
    """Options: a policy over ways to the hallways decides which of them to run (section 14.5).

    An option is chosen epsilon-greedily of Q(s, o) where the one before ended, and runs until it
    ends (`rlgen.agents.hallways`; its way is planned on the environment's model). After k steps,

        Q(s, o) += alpha * [ R + gamma^k * max_o' Q(s', o') - Q(s, o) ],
        R = r_1 + gamma r_2 + ... + gamma^{k-1} r_k,

    over the options o' that can be chosen in s'; Q is 0 after a termination, and what a truncation
    cuts off bootstraps there. An action is an option of k = 1, for which this is Q-learning. One
    cycle is T steps in B environments with the table as it is; options go on over cycles, and the
    update is in the order of their ends, then of the environments.

    Sutton, Precup and Singh, *Between MDPs and semi-MDPs*, 1999. The book has hierarchies in words.

    Attributes:
        q: ``(S, O)`` float64, zeros at first; the primitive options come first.
        option: ``(B,)`` int64, the running options; on a worker, as are the next three.
        origin: ``(B,)`` int64, the states where they were chosen.
        gained: ``(B,)`` float64, R so far.
        discount: ``(B,)`` float64, gamma^k so far.
    """

    Config = OptionsConfig
    shared = "q"
    uses_model = True
    config: OptionsConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse an environment without a model, or without hallways in it."""
        planning.check_model("options", problem)
        hallways, rooms = find_rooms(cast(Model, problem.model))
        if not len(hallways) or (rooms < 0).all():
            raise ConfigError(
                "env.id: options found no hallways in the model, states that alone join two rooms; "
                "use an environment with rooms, such as rlgen/FourRooms-v0, or q-learning"
            )

    def __init__(self, config: OptionsConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        model = cast(Model, problem.model)
        tables = {"primitive": primitive_options(model), "hallways": hallway_options(model)}
        chosen = [table for name, table in tables.items() if config.options in ("both", name)]
        self.table = OptionTable(
            *(np.concatenate([getattr(t, k) for t in chosen]) for k in vars(chosen[0]))
        )
        if stuck := int((~self.table.starts.any(axis=0) & ~model.terminal).sum()):
            raise ConfigError(
                f"hyperparameters.options: in {stuck} states no option to a hallway can be chosen; "
                "use both"
            )
        self.q = np.zeros(self.table.starts.T.shape)
        self.option = self.origin = np.zeros(0, np.int64)
        self.gained = self.discount = np.zeros(0)

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The actions (B,) of the running options; of new ones where those ended."""
        table, rows = self.table, len(observation)
        if len(self.option) != rows:
            self.option = self.origin = np.zeros(rows, np.int64)
            self.gained = self.discount = np.zeros(rows)
        begins = self.starts | ~table.goes_on[self.option, observation]
        self.option = np.where(begins, self._choose(observation, greedy), self.option)
        action = table.policy[self.option, observation]
        return {"action": action, "option": self.option, "begins": begins}

    def _choose(self, observation: np.ndarray, greedy: bool) -> np.ndarray:
        """Epsilon-greedy options (B,); ties are broken at random, by the first when greedy."""
        possible = self.table.starts.T[observation]
        values = np.where(possible, self.q[observation], -np.inf)
        if greedy:
            return values.argmax(axis=1)
        draws = np.where(possible, self.rng.random(values.shape), -1.0)
        best = np.where(values == values.max(axis=1, keepdims=True), draws, -1.0).argmax(axis=1)
        explores = self.rng.random(len(values)) < self.config.epsilon
        return np.where(explores, draws.argmax(axis=1), best)

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What every option gained, in the rows ``(T, B)`` where one ended (``valid``)."""
        reward, gamma = batch["reward"].astype(np.float64), self.config.gamma
        names = ("origin", "gained", "discount")
        columns = {k: np.empty(reward.shape, getattr(self, k).dtype) for k in names}
        for t, begins in enumerate(batch["begins"]):
            self.origin = np.where(begins, batch["observation"][t], self.origin)
            self.gained = np.where(begins, 0.0, self.gained)
            self.discount = np.where(begins, 1.0, self.discount)
            self.gained = self.gained + self.discount * reward[t]
            self.discount = self.discount * gamma
            for name in names:
                columns[name][t] = getattr(self, name)
        ends = ~self.table.goes_on[batch["option"], batch["next_observation"]]
        ends |= batch["terminated"] | batch["truncated"]
        columns["discount"][batch["terminated"]] = 0.0
        kept = {name: batch[name] for name in ("option", "next_observation")}
        return columns | kept | {"valid": ends & batch["valid"]}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Update Q option by option, in the order of their ends, then of the environments."""
        rows = {name: column[batch["valid"]] for name, column in batch.items()}
        both = np.concatenate([rows["origin"], rows["next_observation"]])
        states, position = np.unique(both, return_inverse=True)
        source, successor = position.reshape(2, -1).tolist()
        columns = (rows[name].tolist() for name in ("option", "gained", "discount"))
        alpha, error = self.config.learning_rate, 0.0
        possible = self.table.starts.T[states]
        q = np.where(possible, self.q[states], -np.inf).tolist()
        for s, o, gained, discount, s1 in zip(source, *columns, successor, strict=True):
            future = discount * max(q[s1]) if discount else 0.0
            td_error = gained + future - q[s][o]
            q[s][o] += alpha * td_error
            error += abs(td_error)
        self.q[states] = np.where(possible, np.reshape(q, possible.shape), 0.0)
        return {"td_error": error / max(len(source), 1)}


if __name__ == "__main__":
    import rlgen

    rlgen.train("options-four-rooms")
