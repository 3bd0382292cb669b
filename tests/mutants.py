"""Do the tests fail when the code is wrong? Known mistakes of the field, one at a time, in a copy of the package.

    python tests/mutants.py [WORD ...]     all, or those whose section, file or test contains one of the words

Every mutation names the tests that must fail under it. They have to pass on the unchanged copy first; a mutation that
they do not notice survives, and the exit status is then 1. Sections §1 to §7.4 are those of the specification of
stochastic networks and defences, "attacks" is the gradient and query attacks, "spikes" the networks of spikes,
"protocols" how models are compared.
"""

from __future__ import annotations

import compileall
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 60
"""Seconds that the tests of one mutation may take."""


class Mutant(NamedTuple):
    """``old``, which occurs once in robassay/``file``, becomes ``new``; of tests/test_``tests``.py, ``names`` fail."""

    section: str
    file: str
    old: str
    new: str
    tests: str
    names: str


_BSN, _OPS, _A2SNN, _L2P = "nets/bsn.py", "nets/ops.py", "defences/a2snn.py", "defences/l2p.py"
_RS, _MAGNET, _BNN = "defences/random_spiking.py", "defences/magnet.py", "defences/adv_bnn.py"
_PNI, _RSE, _GRADIENT = "defences/pni.py", "defences/rse.py", "attacks/gradient.py"
_NEURONS, _LATENCY, _PLASTICITY = "nets/neurons.py", "nets/latency.py", "nets/plasticity.py"
_FOLDS, _GATES = "folds.py", "gates.py"
_OWN_NORM = "layers += [nn.BatchNorm2d(after), nn.ReLU()]\n            before"

# fmt: off
MUTANTS = [Mutant(*row) for row in (
    # Binary stochastic neurons: torch's hardsigmoid, no window, values and slopes.
    ("§1", _OPS, "return (u.clamp(-1, 1) + 1) / 2", "return (u + 3).clamp(0, 6) / 6", "nets", "stated_probability"),
    ("§1", _OPS, "drawn.to(u.dtype), 1.0, HARD_SIGMOID)", "drawn.to(u.dtype), 1.0, ONE_HALF)", "nets",
     "inside_the_window"),
    ("§1", _OPS, "    u = slope * a\n", "    u = 1 * a\n", "nets", "stated_probability"),
    ("§1", _OPS, "_step(u, (u > 0).to", "_step(u, (u >= 0).to", "bsn", "likelier_value"),
    ("§1", _BSN, "torch.tensor(float(slope)))", "torch.tensor(float(slope)), persistent=False)", "bsn", "is_restored"),
    ("§1", _BSN, "at(self.first_slope, epoch)", "at(float(self.slope), epoch)", "bsn", "sets_its_own_slope"),
    ("§1", _BSN, "bernoulli(a, self.slope)", "bernoulli(a)", "bsn", "same_backward_pass"),
    ("§1", _BSN, "        if not self.stochastic:\n            return self._onwards",
     "        if not (self.stochastic and self.training):\n            return self._onwards", "bsn", "exam"),
    # Binarised networks: signs, windows, latent weights, the order of a block.
    ("§2", _OPS, "x.sign() if zero == 0", "2 * (x > 0).to(x.dtype) - 1 if zero == 0", "bnn", "third_value"),
    ("§2", _OPS, "drawn = torch.rand_like(x) < hard_sigmoid(x.detach())",
     "drawn = torch.rand_like(x) < x.detach().sigmoid()", "bnn", "mean_of_random_signs"),
    ("§2", "nets/binary.py", "return random_sign(x, ONE_HALF)", "return random_sign(x)", "bnn", "reaches_the_latent"),
    ("§2", "nets/binary.py", "in self.parameters(recurse=False)", "in (self.weight,)", "bnn", "stay_within_one"),
    ("§2", "nets/binary.py", "self.binariser(self.weight))", "self.weight.data.copy_(self.binariser(self.weight)))",
     "bnn", "leave_the_latent"),
    ("§2", "nets/bnn.py", "return y if self.final_block else self.window(self.norm2(y))",
     "return self.window(self.norm2(y))", "bnn", "is_the_one_specified"),
    ("§2", "nets/bnn.py", "and shape[0] != 3", "and shape[0] == 1 and False", "bnn", "above_zero"),
    ("§2", "nets/bnn.py", "if self.stochastic or self.training else", "if self.training else", "bnn", "exam"),
    # ResNet18: the sum, the stem, the first scale, normalisation by the variance.
    ("§3", "nets/resnet.py", "self.junction(y + self.shortcut(x))", "self.junction(y) + self.shortcut(x)", "resnet",
     "is_the_one_specified"),
    ("§3", "nets/resnet.py", "nn.MaxPool2d(3, 2, padding=1)", "nn.MaxPool2d(3, 2)", "resnet", "sizes_of_the_maps"),
    ("§3", "nets/resnet.py", "zeros_(self.norm2.weight)", "zeros_(self.norm1.weight)", "resnet", "zero_init"),
    ("§3", "nets/normalise.py", "/ self.std", "/ self.std**2", "resnet", "inside_and_outside"),
    # Random spiking: what is kept stays, no gradient through the extremes, whose extremes.
    ("§5", _RS, "< self.q, noise, x)", "< self.q, noise, x / (1 - self.q))", "random_spiking", "mean_share"),
    ("§5", _RS, "held = x.detach()", "held = x", "random_spiking", "kept_units_alone"),
    ("§5", _RS, "own = [] if self.coupled else list(range(1, x.dim()))", "own = list(range(1, x.dim()))",
     "random_spiking", "extremes_are"),
    ("§5", _RS, "torch.rand_like(held) < self.q", "torch.rand_like(held) > self.q", "random_spiking", "mean_share"),
    ("§5", "defences/dropout.py", "training=True)", "training=self.training)", "dropout", "mean_stays"),
    ("§5", "defences/dropout.py", "F.dropout(x, self.rate, training=True)", "x * (torch.rand_like(x) >= self.rate)",
     "dropout", "mean_stays"),
    ("§5", "nets/cw_mnist.py", '            nn.ReLU(),\n            Site("dropout"),',
     '            Site("dropout"),\n            nn.ReLU(),', "convnets", "dropout_of_cw_mnist"),
    ("§5", "nets/cw_mnist.py", "nn.Linear(units, dim),\n            nn.ReLU(),", "nn.Linear(units, dim),", "convnets",
     "cw_mnist_is"),
    ("§5", "nets/wrn.py", _OWN_NORM, "before", "convnets", "wrn_is"),
    ("§5", "nets/wrn.py", "mode=\"fan_in\"", "mode=\"fan_out\"", "convnets", "normal_by_the_fan_in"),
    ("§5", _MAGNET, "(x - changed).square().flatten(1).mean(1)", "(x - changed).flatten(1).norm(dim=1)", "magnet",
     "by_hand"),
    ("§5", _MAGNET, "(q - middle)).sum(-1)) / 2", "(q - middle)).sum(-1))", "magnet", "divergence"),
    ("§5", _MAGNET, "scores.topk(k).values[-1]", "scores.topk(k + 1).values[-1]", "magnet", "kth_largest"),
    ("§5", _MAGNET, "(network.quiet(network.prefix(image)) for", "(network(image) for", "magnet", "keeps_the_contract"),
    ("§5", "nets/noisy.py", "for n in noises[1:]", "for n in noises[:0]", "noisy", "behind_another"),
    ("§5", "classifier.py", "self.alarms(x) < 0", "self.alarms(x) <= 0", "rejection", "at_its_threshold"),
    ("§5", "defences/region.py", "torch.rand_like(h) - 1)", "torch.rand_like(h[:1]) - 1)", "region", "contract"),
    ("§5", "defences/region.py", "(2 * torch.rand_like(h) - 1)", "(torch.rand_like(h) - 0.5)", "region",
     "share_of_the_cube"),
    ("§5", "defences/region.py", "(h + noise).clamp(0, 1)", "h + noise", "region", "ends_at_the_box"),
    # A2SNN: log of the sum, signs of both terms, the transposed factor, columns for rows, noise off in evaluation.
    ("§6", _A2SNN, ".square().sum(1).log().sum()", ".square().sum().log()", "a2snn", "closed_forms"),
    ("§6", _A2SNN, "else -self.net.entropy * self.entropy()", "else self.net.entropy * self.entropy()", "a2snn",
     "are_the_papers"),
    ("§6", _A2SNN, "else -self.net.wca * self.alignment()", "else self.net.wca * self.alignment()", "a2snn",
     "are_the_papers"),
    ("§6", _A2SNN, "normal @ self.factor.T", "normal @ self.factor", "a2snn", "covariance_of_the_head"),
    ("§6", _A2SNN, "F.normalize(weight, dim=1)", "F.normalize(weight, dim=0)", "a2snn", "unit_length"),
    ("§6", _A2SNN, "h.shape[0] if self.rows == \"independent\" else 1", "len(h)", "a2snn", "shared_noise"),
    ("§6", _A2SNN, "        if not self.stochastic:\n            return self.quiet(h)",
     "        if not (self.stochastic and self.training):\n            return self.quiet(h)", "a2snn", "exam"),
    # PNI, Learn2Perturb, Adv-BNN, RSE.
    ("§7.1", _PNI, "weight.detach().std()", "weight.std()", "pni", "gradient_of_alpha"),
    ("§7.1", _PNI, "eta = weight.detach().std() * torch", "eta = weight.detach().var() * torch", "pni", "stated"),
    ("§7.1", _PNI, "y.detach().std((1, 2, 3), keepdim=True)", "y.detach().std()", "pni", "spread_of_the_image"),
    ("§7.1", _PNI, "y.detach().std(", "y.std(", "pni", "activation_noise_does_not"),
    ("§7.1", _PNI, "        y: Tensor = self.layer(x)\n        return y\n\n"
     "    def scales(self) -> Iterable[nn.Parameter]:\n        return (self.alpha,)\n\n\n@final",
     "        y: Tensor = self.layer(x)\n        return y\n\n\n@final", "pni", "does_not_decay"),
    ("§7.1", _PNI, "head = WeightNoise(head, self.detail)", "head = head", "pni", "does_not_decay"),
    ("§7.1", _PNI, "        weight = self.layer.weight\n        eta",
     "        weight = self.layer.weight\n        if not self.training:\n"
     "            return self.silent(x)\n        eta", "pni", "quiet"),
    ("§7.2", _L2P, "sigma.add_(rate", "sigma.sub_(rate", "l2p", "step_of_sigma"),
    ("§7.2", _L2P, "self.net.delay + 2)", "self.net.delay + 3)", "l2p", "step_of_sigma"),
    ("§7.2", _L2P, "/ (2 * sigma.sqrt())", "/ (2 * sigma)", "l2p", "step_of_sigma"),
    ("§7.2", _L2P, "sigma.clamp_(min=LEAST)", "sigma.abs_()", "l2p", "never_below"),
    ("§7.2", _L2P, "int(self.epoch) >= self.net.delay", "int(self.epoch) > self.net.delay", "l2p", "before_the_delay"),
    ("§7.2", _L2P, "        return self.inner.undecayed()", "        return ()", "l2p", "does_not_decay"),
    ("§7.2", _L2P, "x if self.rows == \"independent\" else x[:1]", "x[:1]", "l2p", "mean_x_and_spread"),
    ("§7.2", _L2P, "nn.Sequential(LearntNoise(sizes[i], self.per_example), m)",
     "nn.Sequential(m, LearntNoise(sizes[i], self.per_example))", "l2p", "places_and_sizes"),
    ("§7.3", _BNN, "torch.stack(terms).sum()", "terms[-1]", "adv_bnn", "summed_over_all_layers"),
    ("§7.3", _BNN, "2 * prior**2", "2 * prior", "adv_bnn", "summed_over_all_layers"),
    ("§7.3", _BNN, "mu + s.exp() * torch", "mu + (2 * s).exp() * torch", "adv_bnn", "mean_and_spread"),
    ("§7.3", _BNN, "math.log(prior) - s +", "math.log(prior) + s +", "adv_bnn", "zero_at_the_prior"),
    ("§7.3", _BNN, "self.net.alpha / images *", "self.net.alpha *", "adv_bnn", "divergence"),
    ("§7.3", _BNN, "return list(self.log_spread)", "return []", "adv_bnn", "drawn"),
    ("§7.4", _RSE, "self.others if number else self.first", "self.first if number else self.others", "rse",
     "the_first_its_own"),
    ("§7.4", _RSE, "return x + self.std * torch.randn_like(x)",
     "return x + self.std * self.training * torch.randn_like(x)", "rse", "standard_deviation"),
    ("§7.4", _RSE, "nn.Sequential(Gaussian(std), module)", "nn.Sequential(module, Gaussian(std))", "rse", "in_front"),
    # Attacks: signs, projection, covariance, acceptance, budgets.
    ("attacks", "threat.py", "return 1.0 if self.targeted else -1.0", "return -1.0", "threat", "larger_loss"),
    ("attacks", "threat.py", "& (decisions != REJECT)", "", "threat", "reached"),
    ("attacks", "threat.py", "low, high = self.corners(x)\n            return torch.clamp(x_adv, low, high)",
     "return torch.clamp(x_adv, x - self.eps, x + self.eps)", "threat", "projection_is_inside"),
    ("attacks", "threat.py", " - 2 * covariance[self.labels]", "", "closed_form", "by_hand"),
    ("attacks", "threat.py", "return -self.sign * self._best_other(ratio)", "return self._best_other(ratio)",
     "closed_form", "by_hand"),
    ("attacks", _GRADIENT, "self.ball.project(steepest(way, self.threat).mul_(size).add_(at), rows)",
     "steepest(way, self.threat).mul_(size).add_(at)", "gradient_attacks", "dual_norm"),
    ("attacks", _GRADIENT, "return gradient.sign()", "return -gradient.sign()", "gradient_attacks", "dual_norm"),
    ("attacks", _GRADIENT, " ** (1 / x[0].numel())", "", "gradient_attacks", "uniform_in_the_ball"),
    ("attacks", _GRADIENT, "done[rows] = wrong == 1", "done[rows] = wrong > 0", "settled", "luck"),
    ("attacks", _GRADIENT, "rows = ((share == 1) & ~done)", "rows = ((share == 0) & ~done)", "settled", "surely_wrong"),
    ("attacks", _GRADIENT, "draws > 0 and access.stochastic and not access.coupled", "draws > 0", "settled", "coupled"),
    ("attacks", "attacks/apgd.py", "if settling and k:", "if False:", "settled", "surely_wrong"),
    ("attacks", "cells.py", "((decisions != images.y) & (decisions != REJECT)).all(0)",
     "(decisions != images.y).all(0)", "after", "refusal"),
    ("attacks", "cells.py", "(decisions != REJECT)).all(0)", "(decisions != REJECT)).any(0)", "after", "stays"),
    ("attacks", "battery.py", "and one is not transfer else None", "else None", "after", "all_but_the_transfer"),
    ("attacks", "battery.py", "start=Finalist(heats, on)", "start=Finalist(heats, on, 1)", "after",
     "begins_at_the_strongest"),
    ("attacks", "imitation.py", "agreement >= enough", "agreement > 0", "after", "stops_learning"),
    ("attacks", "quantised.py", "self.inner.prefix(self.rounded(x))", "self.inner.prefix(x)", "quantised", "by_hand"),
    ("attacks", "estimators.py", "total if len(drawn) == 1 else total / len(drawn)", "total", "estimators",
     "quadrature"),
    ("attacks", "attacks/weighed.py", "return accepted & self.access.undetected(at)", "return accepted", "rejection",
     "keeps_no_refused"),
    ("attacks", "attacks/weighed.py", "(goal.margin(logits) - goal.kappa).clamp_max(0.0)",
     "goal.margin(logits).clamp_max(0.0)", "cw", "goals_and_confidence"),
    ("attacks", "attacks/square.py", "self.queries, self.recheck, rng)", "self.queries - 1, self.recheck, rng)",
     "square", "every_query_is_counted"),
    ("attacks", "attacks/accept.py", ">= min(self.k, len(logits))", ">= 1", "cw", "lucky_draw"),
    # Spiking neurons: the reset, the delay, the leak of the gradient, the threshold.
    ("spikes", _NEURONS, "return self.threshold / self.leak if self.delay else self.threshold", "return self.threshold",
     "neurons", "plain_loop"),
    ("spikes", _NEURONS, "torch.addcmul(h, h, fired, value=-1, out=v)", "torch.sub(h, fired, out=v)", "neurons",
     "plain_loop"),
    ("spikes", _NEURONS, "torch.gt(h, self.threshold, out=out) if self.strict else", "", "neurons", "only_above_it"),
    ("spikes", _NEURONS, "leak = 1.0 if window else how.leak", "leak = how.leak", "neurons", "window_rule_in_training"),
    ("spikes", _NEURONS, "direct = direct - carried", "direct = direct + carried", "neurons", "plain_loop"),
    # STDP: ranks, the divisor of filters, competition, what strengthens, what rewards.
    ("spikes", _LATENCY, "kernel / kernel.max()", "kernel / kernel.abs().max()", "stdp", "published_values"),
    ("spikes", _LATENCY, "descending=True, stable=True)", "descending=False, stable=True)", "stdp", "share_the_steps"),
    ("spikes", _LATENCY, "torch.where(flat > 0, found, STEPS)", "found", "stdp", "few_or_no"),
    ("spikes", _PLASTICITY, "(best > how.threshold) & ~spent", "best > how.threshold", "stdp", "naive_competition"),
    ("spikes", _PLASTICITY, "        taken.add(m)\n", "", "stdp", "naive_competition"),
    ("spikes", _PLASTICITY, "t <= winner.step", "t < winner.step", "stdp", "by_hand"),
    ("spikes", _PLASTICITY, "(PUNISHMENT, factors[1])", "(REWARD, factors[1])", "stdp", "lowers_the_wrong_map"),
    ("spikes", _PLASTICITY, "[wrong / ADAPT, right / ADAPT]", "[right / ADAPT, wrong / ADAPT]", "stdp", "shrink"),
    ("spikes", "nets/stdp.py", "return -self.draw(self.prefix(x))", "return -1 - self.draw(self.prefix(x))", "stdp",
     "few_or_no"),
    # Protocols: what counts as success and as a trial, whose noise, whose labels.
    ("protocols", _FOLDS, "hit & (self.decisions != REJECT) & (self.linf > 0)", "hit & (self.decisions != REJECT)",
     "protocols", "wanted_class"),
    ("protocols", _FOLDS, "np.where(targets >= 0, self.decisions == targets, self.decisions != self.labels)",
     "self.decisions != self.labels", "protocols", "wanted_class"),
    ("protocols", _FOLDS, "(disturbed.decisions == one)", "(disturbed.decisions == disturbed.labels)", "protocols",
     "by_hand"),
    ("protocols", _FOLDS, "only.fooled() * (only.l2 <= self.within)", "only.fooled()", "protocols", "by_hand"),
    ("protocols", _GATES, "rate(np.prod(np.broadcast", "rate(np.max(np.broadcast", "protocols", "by_hand"),
    ("protocols", _GATES, "hit.mean(0) > above", "hit.mean(0) >= 0", "translucent", "recount"),
    ("protocols", _GATES, "(target, [*group[:i], *group[i + 1 :]])", "(target, group)", "translucent", "recount"),
    ("protocols", "cells.py", "name, batch, repeat))", "name, batch))", "protocols", "fresh_per_draw"),
    ("protocols", "cells.py", "(judged * 255).round() / 255", "judged", "protocols", "rounding"),
    ("protocols", "protocols/mixtures.py", "means.on(models, images), repeats=repeats)\n        own",
     "means.on(models[:1], images), repeats=repeats)\n        own", "protocols", "fooled_member"),
    ("protocols", "papers/ordering.py", 'larger["low"] > smaller["high"]', 'larger["value"] > smaller["value"]',
     "ordering", "apart"),
    ("protocols", "papers/ordering.py", 'and "disagrees" not in outcomes', "", "ordering", "matched"),
    ("protocols", "substitute.py", "(-1) ** (i // self.period)", "(-1) ** (i % self.period)", "substitute",
     "changes_its_sign"),
    ("protocols", "imitation.py", "x.std(0, correction=0)", "x.var(0, correction=0)", "substitute", "variance_of"),
    ("protocols", "imitation.py", "y = ask(shown, rows, rng.child(\"ask\", k))", "y = answered.y[rows]", "substitute",
     "labels_of_its_own"),
)]
# fmt: on


def fault(mutant: Mutant, text: str) -> str | None:
    """Why a mutation cannot be applied to the file's ``text``; None when it can."""
    found = text.count(mutant.old)
    return None if found == 1 else f"{mutant.file}: {mutant.old!r} occurs {found} times, not once: the table is stale"


def run(copy: Path, tests: str, names: list[str]) -> tuple[int, str, float]:
    """pytest's status (−1: too slow), the first failing test, and seconds, of tests in the copy."""
    log, start = copy / "log", time.monotonic()
    arguments = [f"tests/test_{tests}.py", "-k", " or ".join(names), "-x", "-q", "-rf", "--tb=no"]
    # A child of this process has torch already: that is most of what a run costs. It has not seen the package.
    child = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, arguments, log))
    child.start()
    try:
        child.join(LIMIT)
    finally:
        child.kill()
        child.join()
    failed = re.search(r"^FAILED \S+?::(.*?)(?: - .*)?$", log.read_text(), re.MULTILINE)
    status = -1 if child.exitcode is None or child.exitcode < 0 else child.exitcode
    if status == 1 and not failed:
        status = 2  # with -x, a file that cannot be imported has the status of a failed test
    return status, failed[1] if failed else "", time.monotonic() - start


def _pytest(copy: Path, arguments: list[str], log: Path) -> None:
    sys.stdout = sys.stderr = log.open("w")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[0] = str(copy)
    sys.dont_write_bytecode = True
    status = int(pytest.main(arguments))
    sys.stdout.flush()
    os._exit(status)


def verdict(copy: Path, mutant: Mutant) -> tuple[bool, str]:
    """Whether the named tests notice the mutation, and a line about it."""
    path = copy / "robassay" / mutant.file
    text = path.read_text()
    if (stale := fault(mutant, text)) is not None:
        return False, f"ERROR     {stale}"
    try:
        path.write_text(text.replace(mutant.old, mutant.new))
        status, failed, seconds = run(copy, mutant.tests, [mutant.names])
    finally:
        path.write_text(text)
    # Only a test that failed has noticed: no test found, or one that could not be read, is no proof.
    word = {0: "SURVIVED", 1: "killed"}.get(status, f"ERROR {status}")
    by = f"by {failed}" if status == 1 else f"-k {mutant.names}: {' '.join(mutant.old.split())}"
    return status == 1, f"{word:9} {mutant.section:8}{mutant.file:28}test_{mutant.tests}.py {by} ({seconds:.1f} s)"


def main(words: list[str]) -> int:
    """Try the mutations that contain one of the ``words``. 0: all noticed."""
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.section} {m.file} {m.tests}" for w in words)]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("robassay", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        # By content: a change within one second and of the same length must not find yesterday's bytecode.
        compileall.compile_dir(copy / "robassay", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        for tests in dict.fromkeys(m.tests for m in chosen):
            group = [m for m in chosen if m.tests == tests]
            status, failed, _ = run(copy, tests, list(dict.fromkeys(m.names for m in group)))
            if status:
                bad += len(group)
                print(f"ERROR     test_{tests}.py does not pass unchanged (status {status}): {failed}", flush=True)
                continue
            for mutant in group:
                noticed, line = verdict(copy, mutant)
                bad += not noticed
                print(line, flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} mutations noticed")
    return int(bad > 0 or not chosen)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
