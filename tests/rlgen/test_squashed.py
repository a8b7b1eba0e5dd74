"""The squashed Gaussian against torch.distributions; bounds by hand."""

import numpy as np
import torch
from gymnasium import spaces
from torch import distributions as dist

from rlgen.networks import Bounds, SquashedGaussian

SPACE = spaces.Box(np.array([-1.0, 10.0], np.float32), np.array([3.0, 60.0], np.float32))


def reference(outputs: torch.Tensor) -> dist.Distribution:
    mean, log_std = outputs.chunk(2, dim=-1)
    normal = dist.Normal(mean, log_std.clamp(-20, 2).exp())
    squash = dist.TanhTransform(cache_size=1)
    return dist.Independent(dist.TransformedDistribution(normal, [squash]), 1)


def moderate(*leading: int) -> torch.Tensor:
    """Outputs whose actions keep clear of the bounds, where atanh would lose digits."""
    return torch.cat([0.5 * torch.randn(*leading, 2), torch.randn(*leading, 2) * 0.3 - 1], dim=-1)


def test_bounds_map_minus_one_to_the_lowest_and_one_to_the_highest():
    bounds = Bounds(SPACE)
    unit = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5]])
    action = bounds.to_action(unit)
    assert action.tolist() == [[-1.0, 10.0], [3.0, 60.0], [1.0, 47.5]]
    assert torch.equal(bounds.to_unit(action), unit)
    assert bounds.to_unit(action.double()).dtype == torch.float32


def test_draws_and_densities_equal_torch_distributions():
    torch.manual_seed(0)
    head = SquashedGaussian(SPACE)
    outputs = moderate(7, 5)
    unit, log_prob = head.draw(outputs)
    expected = reference(outputs)
    assert unit.shape == (7, 5, 2) and log_prob.shape == (7, 5)
    torch.testing.assert_close(log_prob, expected.log_prob(unit), rtol=1e-4, atol=1e-5)
    action = head.bounds.to_action(unit.detach())
    found = head.log_prob(outputs, action)
    torch.testing.assert_close(found, expected.log_prob(unit.detach()), rtol=1e-4, atol=1e-4)
    assert (
        (action >= torch.from_numpy(SPACE.low)) & (action <= torch.from_numpy(SPACE.high))
    ).all()


def test_the_density_in_the_units_of_the_environment_differs_by_their_range():
    """Half ranges 2 and 25: the density of the affine image is log(2) + log(25) lower."""
    torch.manual_seed(0)
    head = SquashedGaussian(SPACE)
    outputs = moderate(6)
    to_bounds = dist.AffineTransform(torch.tensor([1.0, 35.0]), torch.tensor([2.0, 25.0]))
    base = dist.Normal(outputs[:, :2], outputs[:, 2:].exp())
    affine = dist.Independent(
        dist.TransformedDistribution(base, [dist.TanhTransform(), to_bounds]), 1
    )
    action = head.sample(outputs)
    expected = affine.log_prob(action) + np.log(2.0) + np.log(25.0)
    torch.testing.assert_close(head.log_prob(outputs, action), expected, rtol=1e-4, atol=1e-4)


def test_the_density_integrates_to_one():
    head = SquashedGaussian(spaces.Box(-1.0, 1.0, (1,)))
    grid = torch.linspace(-1.0, 1.0, 200_001)[1:-1, None].double()
    outputs = torch.tensor([[0.3, -0.5]], dtype=torch.float64).expand(len(grid), 2)
    total = head.log_prob(outputs, grid).exp().mean() * 2
    assert abs(total.item() - 1.0) < 1e-4


def test_density_and_gradient_stay_finite_where_tanh_rounds_to_one():
    """At x = 20 the correction is 2 (log 2 - 20) to float32, where log(1 - tanh(x)^2) is -inf."""
    head = SquashedGaussian(spaces.Box(-1.0, 1.0, (1,)))
    outputs = torch.tensor([[20.0, -20.0], [-20.0, -20.0]], requires_grad=True)
    torch.manual_seed(0)
    unit, log_prob = head.draw(outputs)
    assert unit.abs().tolist() == [[1.0], [1.0]]
    torch.manual_seed(0)
    noise = torch.randn(2, 1)[:, 0]
    expected = -0.5 * noise**2 + 20 - 0.5 * np.log(2 * np.pi) - 2 * (np.log(2) - 20)
    torch.testing.assert_close(log_prob.detach(), expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(head.log_prob(outputs, unit.detach())).all()


def test_the_mode_is_the_squashed_mean_in_the_units_of_the_environment():
    head = SquashedGaussian(SPACE)
    outputs = torch.tensor([[0.0, 100.0, 5.0, 5.0]])
    assert head.mode(outputs).tolist() == [[1.0, 60.0]]
