"""Attacks and transfer against closed forms, hand-written loops and a table model whose every answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repsim.attacks.gradient import AttackResult, GradientAttack, attack, check_premises
from repsim.attacks.transfer import transfer, transfer_curve
from repsim.data.images import LabelledImages

torch.set_num_threads(1)


class Linear(nn.Module):
    """logits = scale * (W x + b), float32."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


class Threshold(nn.Module):
    """One pixel x, two classes: class 1 when x > threshold, by logits (0, slope (x - threshold))."""

    def __init__(self, threshold: float, slope: float = 1.0, classes: tuple[int, ...] = (2,)) -> None:
        super().__init__()
        self.classes, self.threshold, self.slope = classes, threshold, slope

    def forward(self, images: Tensor) -> Tensor:
        margin = self.slope * (images.flatten(1) - self.threshold)
        return torch.cat([torch.zeros_like(margin), margin], dim=1)


class Wave(nn.Module):
    """A smooth network without random parts whose gradient changes along the way."""

    def __init__(self, seed: int, pixels: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.classes = classes
        self.first = nn.Parameter(torch.tensor(rng.normal(size=(16, pixels)), dtype=torch.float32))
        self.second = nn.Parameter(torch.tensor(rng.normal(size=(sum(classes), 16)), dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        return torch.sin(images.flatten(1) @ self.first.T) @ self.second.T


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def loss_gradient(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Float64 gradient of the mean over heads of the cross entropy with respect to the logits."""
    parts, first = [], 0
    for head, count in enumerate(classes):
        part = softmax(logits[:, first : first + count])
        part[np.arange(len(part)), labels[:, head]] -= 1
        parts.append(part / len(classes))
        first += count
    return np.concatenate(parts, axis=1)


def linear_problem(seed: int = 0, n: int = 23, classes: tuple[int, ...] = (4, 3)):
    """A linear model with real images: the class the gradient works on."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(n, 3, 4, 4)).astype(np.float32)
    images[0] = 0.0
    images[1] = 1.0
    model = Linear(rng.normal(size=(sum(classes), 48)), rng.normal(size=sum(classes)), classes).eval()
    labels = np.stack([rng.integers(0, count, size=n) for count in classes], axis=1)
    return model, LabelledImages(images, labels, classes, tuple(f"head{h}" for h in range(len(classes))), np.arange(n))


def pixels(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1, 1)


def column(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64).reshape(-1, 1)


def exact_bounds(images: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    exact = images.astype(np.float64)
    return np.maximum(exact - epsilon, 0), np.minimum(exact + epsilon, 1)


@pytest.mark.parametrize("classes", [(5,), (4, 3)])
@pytest.mark.parametrize("epsilon", [1 / 255, 0.1])
def test_fgsm_on_a_linear_model_is_the_closed_form(classes, epsilon):
    model, data = linear_problem(classes=classes)
    result = attack(model, data.images, data.labels, GradientAttack("fgsm", epsilon=epsilon))
    weight, bias = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    logits = data.images.reshape(len(data), -1).astype(np.float64) @ weight.T + bias
    gradient = (loss_gradient(logits, data.labels, classes) @ weight).reshape(data.images.shape)
    expected = np.clip(data.images + epsilon * np.sign(gradient), 0, 1)
    np.testing.assert_allclose(result.adversarial, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "config",
    [
        GradientAttack("pgd", 0.05, steps=10),
        GradientAttack("mifgsm", 0.05, steps=10),
        GradientAttack("pgd", 0.05, steps=40, random_start=True),
    ],
)
def test_on_two_classes_of_a_linear_model_every_iterative_attack_reaches_the_corner(config):
    # With two classes the gradient is a positive multiple of the other class's weights minus the true one's, always.
    model, data = linear_problem(classes=(2,))
    result = attack(model, data.images, data.labels, config)
    weight = model.weight.detach().double().numpy()
    direction = np.sign(weight[1 - data.labels[:, 0]] - weight[data.labels[:, 0]]).reshape(data.images.shape)
    np.testing.assert_allclose(result.adversarial, np.clip(data.images + 0.05 * direction, 0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["mifgsm", "pgd"])
@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_iterative_attacks_follow_a_hand_written_loop(method, momentum):
    classes, epsilon, steps = (4, 3), 0.08, 7
    rng = np.random.default_rng(3)
    images = rng.uniform(size=(9, 2, 3, 3)).astype(np.float32)
    labels = np.stack([rng.integers(0, count, size=9) for count in classes], axis=1)
    model = Wave(5, 18, classes).eval()
    first, second = (weight.detach().double().numpy() for weight in (model.first, model.second))

    current, velocity = images.astype(np.float64).reshape(9, -1), np.zeros((9, 18))
    start = current.copy()
    for _ in range(steps):
        hidden = current @ first.T
        gradient = (loss_gradient(np.sin(hidden) @ second.T, labels, classes) @ second * np.cos(hidden)) @ first
        if method == "mifgsm":
            velocity = momentum * velocity + gradient / np.abs(gradient).sum(axis=1, keepdims=True)
            step = epsilon / steps * np.sign(velocity)
        else:
            step = 2.5 * epsilon / steps * np.sign(gradient)
        current = np.clip(np.clip(current + step, start - epsilon, start + epsilon), 0, 1)

    result = attack(model, images, labels, GradientAttack(method, epsilon=epsilon, steps=steps, momentum=momentum))
    np.testing.assert_allclose(result.adversarial.reshape(9, -1), current, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        GradientAttack("fgsm"),
        GradientAttack("pgd", random_start=True),
        GradientAttack("pgd", step_size=1.0, steps=3),
        GradientAttack("mifgsm", random_start=True, steps=3),
    ],
)
@pytest.mark.parametrize("epsilon", [1 / 255, 2 / 255, 0.1, 1 / 3, 1.0])
def test_epsilon_and_range_hold_exactly(config, epsilon):
    model, data = linear_problem(n=50)
    config = GradientAttack(**{**config.__dict__, "epsilon": epsilon})
    result = attack(model, data.images, data.labels, config)
    assert result.adversarial.dtype == np.float32
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    change = np.abs(result.adversarial.astype(np.float64) - data.images.astype(np.float64))
    assert change.max() <= epsilon  # no tolerance: the bounds are rounded inwards
    assert result.linf == change.max()
    assert result.linf > 0.99 * epsilon
    low, high = exact_bounds(data.images, epsilon)
    assert ((result.adversarial >= low) & (result.adversarial <= high)).all()


def test_success_means_any_head_of_the_attacked_model_is_wrong_afterwards():
    model, data = linear_problem()
    result = attack(model, data.images, data.labels, GradientAttack("pgd", epsilon=0.02))
    with torch.no_grad():
        logits = model(torch.from_numpy(result.adversarial)).numpy()
    wrong = (logits[:, :4].argmax(1) != data.labels[:, 0]) | (logits[:, 4:].argmax(1) != data.labels[:, 1])
    assert isinstance(result, AttackResult)
    np.testing.assert_array_equal(result.success, wrong)


@pytest.mark.parametrize("config", [GradientAttack("mifgsm"), GradientAttack("pgd", random_start=True, seed=4)])
def test_the_batch_size_changes_nothing_and_a_second_run_is_identical(config):
    model, data = linear_problem(n=40)
    whole = attack(model, data.images, data.labels, config)
    again = attack(model, data.images, data.labels, config)
    parts = attack(model, data.images, data.labels, config, batch_size=7)
    np.testing.assert_array_equal(whole.adversarial, again.adversarial)
    np.testing.assert_allclose(whole.adversarial, parts.adversarial, rtol=0, atol=1e-6)


def test_the_random_start_depends_on_the_seed_and_leaves_global_states_alone():
    model, data = linear_problem()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    # One small step away from the start: the start shows.
    results = [
        attack(
            model,
            data.images,
            data.labels,
            GradientAttack("pgd", 0.1, steps=1, step_size=1e-4, random_start=True, seed=seed),
        ).adversarial
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).mean() > 0.9
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def test_an_image_without_gradient_stays_where_it_is():
    class Dead(Threshold):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(torch.relu(images - 0.4))  # no slope below .4

    images, labels = pixels(0.2, 0.9), column(0, 1)
    for method in ("mifgsm", "pgd", "fgsm"):
        result = attack(Dead(0.3).eval(), images, labels, GradientAttack(method, epsilon=0.1))
        assert result.adversarial[0, 0, 0, 0] == np.float32(0.2)
        assert result.adversarial[1, 0, 0, 0] < np.float32(0.81)
    assert transfer(Dead(0.3).eval(), Dead(0.3).eval(), images, labels, labels, GradientAttack())["zero_gradient"] == 1


def test_momentum_carries_an_image_across_a_plateau():
    class Plateau(Threshold):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.clamp(max=0.5) + torch.relu(images - 0.55))  # flat from .5 to .55

    # Steps of .04 from .45: .49, .53 (no gradient there), .57, .61, .65; PGD has nothing to go by at .53.
    images, labels = pixels(0.45), column(0)
    moved = attack(Plateau(0.5).eval(), images, labels, GradientAttack("mifgsm", epsilon=0.2, steps=5))
    stuck = attack(Plateau(0.5).eval(), images, labels, GradientAttack("pgd", epsilon=0.2, steps=5, step_size=0.04))
    assert moved.adversarial.item() == pytest.approx(0.65, abs=1e-6)
    assert stuck.adversarial.item() == pytest.approx(0.53, abs=1e-6)


def test_a_gradient_that_is_not_finite_is_an_error():
    class Steep(Threshold):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + torch.sqrt(images * 0.0))  # infinite slope times zero

    with pytest.raises(ValueError, match="expected finite gradients, got NaN or infinity"):
        attack(Steep(0.5).eval(), TABLE_IMAGES, TABLE_LABELS, GradientAttack())


def test_the_model_is_left_as_it_was():
    model, data = linear_problem()
    attack(model, data.images, data.labels, GradientAttack())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


# --- transfer -------------------------------------------------------------------------------------------------------

# Source: class 1 above .5. Victim: class 1 above .55, twice as steep. epsilon .1; the attack moves x by .1 towards .5.
#   x      label  source  victim   example  source  victim
#   .44    0      right   right    .54      errs    right
#   .48    0      right   right    .58      errs    errs
#   .58    1      right   right    .48      errs    errs
#   .62    1      right   right    .52      right   errs
#   .90    1      right   right    .80      right   right
#   .52    1      right   WRONG    .42      errs    errs
#   .52    0      WRONG   right    .62      errs    errs
#   .30    1      WRONG   WRONG    .20      errs    errs
#   .05    0      right   right    .15      right   right
TABLE_IMAGES = pixels(0.44, 0.48, 0.58, 0.62, 0.90, 0.52, 0.52, 0.30, 0.05)
TABLE_LABELS = column(0, 0, 1, 1, 1, 1, 0, 1, 0)


@pytest.mark.parametrize("method", ["fgsm", "pgd", "mifgsm"])
@pytest.mark.parametrize("batch_size", [128, 2])
def test_the_counts_of_a_table_model(method, batch_size):
    counts = transfer(
        Threshold(0.5).eval(),
        Threshold(0.55, slope=2).eval(),
        TABLE_IMAGES,
        TABLE_LABELS,
        TABLE_LABELS,
        GradientAttack(method, epsilon=0.1),
        batch_size=batch_size,
    )
    expected = {
        "inputs": 9,
        "clean_error_source": 2,
        "clean_error_victim": 2,
        "source_success": 4,  # .44, .48, .58 and the .52 of class 1
        "zero_gradient": 0,
        "joint_n": 6,
        "joint_success": 3,  # .48, .58, .62
        "conditional_n": 3,  # .44, .48, .58
        "conditional_success": 2,  # .48, .58
        "unconditioned_success": 6,
        "same_mistake": 2,  # with two classes: both err
        "flips": 4,  # .48, .58, .62 and the .52 of class 0; the other wrong ones stay wrong
    }
    assert {name: counts[name] for name in expected} == expected
    assert counts["epsilon"] == 0.1
    assert counts["linf"] == pytest.approx(0.1, abs=1e-6)
    assert counts["l2"] == pytest.approx(0.1, abs=1e-6)
    assert counts["margin_drop"] == pytest.approx(2 * 0.1, abs=1e-6)  # slope times epsilon on every jointly right image
    assert counts["displacement"] == pytest.approx(2 * 0.1, abs=1e-6)
    assert counts["control_displacement"] == pytest.approx(2 * 0.1, abs=1e-6)
    assert 0 <= counts["control_success"] <= 3


def test_the_control_is_random_signs_of_the_same_epsilon_clipped_to_the_range():
    # Images .5 +- a little, victim at .5: signs decide. Half of the signs must hurt, within four standard deviations.
    n = 400
    labels = column(*([0, 1] * (n // 2)))
    images = pixels(*np.where(labels[:, 0] == 0, 0.47, 0.53))
    model = Threshold(0.5).eval()
    counts = transfer(model, model, images, labels, labels, GradientAttack("fgsm", epsilon=0.05))
    assert counts["joint_n"] == counts["joint_success"] == counts["source_success"] == n
    assert abs(counts["control_success"] - n / 2) < 4 * np.sqrt(n) / 2
    assert counts["control_flips"] == counts["control_success"]
    other = transfer(model, model, images, labels, labels, GradientAttack("fgsm", epsilon=0.05, seed=1))
    assert other["control_success"] != counts["control_success"]  # holds for these two seeds; the signs are the seed's
    # At the edge of the range the noise is cut: the mean displacement is half of epsilon.
    white = transfer(model, model, pixels(*[1.0] * n), column(*[1] * n), column(*[1] * n), GradientAttack(epsilon=0.05))
    assert white["control_displacement"] == pytest.approx(0.025, abs=4 * 0.025 / np.sqrt(n))


def test_the_same_mistake_needs_the_same_wrong_class_in_a_shared_head():
    # Three classes over one pixel: the source falls to class 1, one victim to class 1, the other to class 2.
    def three(second: int) -> Linear:
        weight, bias = np.zeros((3, 1)), np.array([0.0, -9.0, -9.0])
        weight[second], bias[second] = 10.0, -5.0
        return Linear(weight, bias, (3,)).eval()

    images, labels = pixels(0.45, 0.48, 0.1), column(0, 0, 0)
    config = GradientAttack("fgsm", epsilon=0.1)
    same = transfer(three(1), three(1), images, labels, labels, config)
    different = transfer(three(1), three(2), images, labels, labels, config)
    assert (same["joint_success"], same["same_mistake"]) == (2, 2)
    assert (different["joint_success"], different["same_mistake"]) == (2, 0)


def test_models_of_different_tasks_are_each_judged_by_their_own_heads():
    # Source: two heads that threshold at .5 and .8. Victim: one head at .5, with other labels.
    source = Linear(np.array([[0.0], [1.0], [0.0], [1.0]]), np.array([0.0, -0.5, 0.0, -0.8]), (2, 2)).eval()
    victim = Threshold(0.5).eval()
    images = pixels(0.2, 0.55, 0.9, 0.85)
    labels_source = np.array([[0, 0], [1, 0], [1, 1], [1, 0]], dtype=np.int64)
    labels_victim = column(1, 1, 0, 1)
    counts = transfer(source, victim, images, labels_source, labels_victim, GradientAttack("fgsm", epsilon=0.1))
    assert counts["same_mistake"] is None  # no shared head
    assert counts["clean_error_source"] == 1  # .85 is wrong in the second head alone
    assert counts["clean_error_victim"] == 2  # .2 and .9
    assert counts["joint_n"] == 1
    # On .55 the first head's cross entropy pulls down, the second's up: sigmoid(-.05) against sigmoid(-.25).
    assert counts["joint_success"] == counts["flips"] == 1
    shared = transfer(source, victim, images, labels_source, labels_source[:, :1].copy(), GradientAttack("fgsm", 0.1))
    assert shared["same_mistake"] is not None


def test_the_margin_of_several_heads_is_that_of_the_worst():
    # One pixel; margins of the two heads: 4 (x - .5) and (x - .2): the first is the lesser below x = .6.
    model = Linear(np.array([[0.0], [4.0], [0.0], [1.0]]), np.array([0.0, -2.0, 0.0, -0.2]), (2, 2)).eval()
    images, labels = pixels(0.9), np.array([[1, 1]], dtype=np.int64)
    counts = transfer(model, model, images, labels, labels, GradientAttack("fgsm", epsilon=0.35))
    assert counts["margin_drop"] == pytest.approx(0.7 - 0.2, abs=1e-6)  # from .9 - .2 to 4 (.55 - .5)


def test_no_jointly_right_image_leaves_the_margin_undefined():
    model = Threshold(0.5).eval()
    counts = transfer(model, model, pixels(0.9), column(0), column(0), GradientAttack(epsilon=0.1))
    assert counts["joint_n"] == 0
    assert counts["margin_drop"] is None


@pytest.mark.parametrize("method", ["fgsm", "pgd", "mifgsm"])
def test_the_curve_is_transfer_at_every_epsilon(method):
    source, data = linear_problem(n=60)
    victim, _ = linear_problem(seed=1)
    rows = transfer_curve(source, victim, data.images, data.labels, data.labels, method=method, steps=4, seed=3)
    assert [row["epsilon"] for row in rows] == [value / 255 for value in (1, 2, 4, 8, 16)]
    for row in rows:
        config = GradientAttack(method, epsilon=row["epsilon"], steps=4, seed=3)
        assert row == transfer(source, victim, data.images, data.labels, data.labels, config)
    assert rows[-1]["source_success"] >= rows[0]["source_success"]


def test_the_curve_shares_clean_passes_and_the_first_gradient():
    source, data = linear_problem(n=20)
    victim, _ = linear_problem(seed=1)
    calls = {"source": 0, "victim": 0}
    source.register_forward_hook(lambda *_: calls.__setitem__("source", calls["source"] + 1))
    victim.register_forward_hook(lambda *_: calls.__setitem__("victim", calls["victim"] + 1))
    transfer_curve(source, victim, data.images, data.labels, data.labels, epsilons=(1, 2, 4), steps=5)
    # 2 for determinism and 1 clean each; then per epsilon: 4 more gradients and 1 look; the example and the control.
    assert calls == {"source": 2 + 1 + 3 * (4 + 1), "victim": 2 + 1 + 3 * 2}


# --- premises -------------------------------------------------------------------------------------------------------


class Probabilities(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


class SecondHeadProbabilities(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.cat([logits, logits.softmax(dim=1)], dim=1)


class AlwaysDropout(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.nn.functional.dropout(images, p=0.5, training=True))


class Detached(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach().round())


class Constant(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 0.0


class NotFinite(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 0.0


class TooWide(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([super().forward(images)] * 2, dim=1)


class HalfPrecision(Threshold):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).half()


class Dropout(Threshold):
    def __init__(self) -> None:
        super().__init__(0.5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.dropout(images))


VIOLATIONS = {
    "probabilities": (Probabilities(0.5).eval(), "expected logits, got probabilities in head 0"),
    "probabilities in one head": (
        SecondHeadProbabilities(0.5, classes=(2, 2)).eval(),
        "expected logits, got probabilities in head 1",
    ),
    "random in eval mode": (AlwaysDropout(0.5).eval(), "expected a deterministic model"),
    "dropout in train mode": (Dropout().train(), "in eval mode, got train mode"),
    "no path from image to logits": (Detached(0.5).eval(), "expected a non-zero gradient for some image"),
    "constant": (Constant(0.5).eval(), "expected a non-zero gradient for some image"),
    "not finite": (NotFinite(0.5).eval(), "expected finite logits"),
    "wrong width": (TooWide(0.5).eval(), r"expected float32 logits \[9, 2\], got torch.float32 \[9, 4\]"),
    "half precision": (HalfPrecision(0.5).eval(), "expected float32 logits"),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_a_violated_premise_is_an_error_everywhere(case):
    model, message = VIOLATIONS[case]
    labels = np.repeat(TABLE_LABELS, len(model.classes), axis=1)
    with pytest.raises(ValueError, match=message):
        check_premises(model, TABLE_IMAGES, labels)
    with pytest.raises(ValueError, match=message):
        attack(model, TABLE_IMAGES, labels, GradientAttack())
    with pytest.raises(ValueError, match=message):
        transfer(model, Threshold(0.5).eval(), TABLE_IMAGES, labels, TABLE_LABELS, GradientAttack())
    if "gradient" not in message:  # the victim's gradient plays no part
        with pytest.raises(ValueError, match=message):
            transfer(Threshold(0.5).eval(), model, TABLE_IMAGES, TABLE_LABELS, labels, GradientAttack())


def test_a_gradient_only_where_the_model_is_wrong_is_not_enough():
    class WrongOnly(Threshold):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(torch.relu(images - 0.4))

    model = WrongOnly(0.3).eval()  # flat, and class 0, below .4
    with pytest.raises(ValueError, match="expected a non-zero gradient for some image, got zero for all 1"):
        check_premises(model, pixels(0.2, 0.9), column(0, 0))  # right about .2, wrong about .9
    check_premises(model, pixels(0.2, 0.9), column(1, 0))  # right about none: any gradient will do


def test_a_sound_model_passes():
    model, data = linear_problem()
    check_premises(model, data.images, data.labels)
    check_premises(Threshold(0.5).eval(), TABLE_IMAGES, TABLE_LABELS)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": TABLE_IMAGES.astype(np.float64)}, TypeError, "expected images as a float32 array, got float64"),
        ({"images": torch.zeros(9, 1, 1, 1)}, TypeError, "expected images as a float32 array, got Tensor"),
        ({"images": TABLE_IMAGES[:, 0]}, ValueError, r"expected images \[n, channels, height, width\]"),
        ({"images": TABLE_IMAGES[:0]}, ValueError, r"expected images \[n, channels, height, width\], n > 0"),
        ({"images": TABLE_IMAGES * 2}, ValueError, r"expected images in \[0, 1\], got 0.1 to 1.8"),
        ({"images": TABLE_IMAGES * np.float32("nan")}, ValueError, r"expected images in \[0, 1\], got nan"),
        ({"labels": TABLE_LABELS.astype(np.int32)}, TypeError, "expected labels of the model as an int64 array"),
        ({"labels": TABLE_LABELS[:, 0]}, ValueError, r"expected labels of the model \[9, 1\], got \[9\]"),
        ({"labels": TABLE_LABELS + 1}, ValueError, r"expected labels of the model from 0 and below \(2,\)"),
        ({"labels": TABLE_LABELS - 1}, ValueError, r"expected labels of the model from 0 and below \(2,\)"),
        ({"model": nn.Identity().eval()}, TypeError, "expected model with .classes, got Identity without"),
    ],
)
def test_bad_input_is_named(change, error, message):
    given = {"model": Threshold(0.5).eval(), "images": TABLE_IMAGES, "labels": TABLE_LABELS, **change}
    with pytest.raises(error, match=message):
        attack(**given, config=GradientAttack())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "cw"}, "expected method one of"),
        ({"epsilon": 0.0}, r"expected epsilon in \(0, 1\], got 0.0"),
        ({"epsilon": 8}, r"expected epsilon in \(0, 1\], got 8"),
        ({"epsilon": float("nan")}, "expected epsilon"),
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"step_size": 0.0}, "expected step_size above 0, got 0.0"),
        ({"momentum": -1.0}, "expected momentum of at least 0"),
        ({"seed": -1}, "expected seed of at least 0"),
        ({"method": "fgsm", "random_start": True}, "expected neither random_start nor step_size with 'fgsm'"),
    ],
)
def test_a_bad_configuration_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        GradientAttack(**change)


def test_radii_in_the_wrong_unit_are_named():
    model = Threshold(0.5).eval()
    for epsilons, message in (((8 / 255,), "expected epsilons in 255ths"), ((), "expected at least one of epsilons")):
        with pytest.raises(ValueError, match=message):
            transfer_curve(model, model, TABLE_IMAGES, TABLE_LABELS, TABLE_LABELS, epsilons=epsilons)
