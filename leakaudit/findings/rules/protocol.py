"""LA4xx: how clients make and share updates, as far as it helps an attacker."""

from __future__ import annotations

from collections.abc import Iterator

from leakaudit.document.counting import count
from leakaudit.document.status import RunStatus
from leakaudit.findings.registry import Evidence, Found, rule


@rule(
    "LA401",
    "Every update is computed from a single sample",
    worst="low",
    remedy="Have clients accumulate several samples per update, and audit that with --batch-size.",
)
def single_sample(evidence: Evidence) -> Iterator[Found]:
    """With one sample per update nothing hides it: its label is exact and its pixels are easiest to find.

    The gradient of a batch is a mean, and the terms of a mean are harder to tell apart. Every attack in the report is
    at its best here, and R-GAP works only here.
    """
    if set(evidence.protocol.batch_sizes) == {1}:
        yield Found(
            "low",
            "certified",
            "The protocol shares the gradient of one sample at a time, the easiest case for an attacker.",
            {"batch_size": 1},
        )


@rule(
    "LA402",
    "BatchNorm statistics of the batch can be shared with the update",
    worst="medium",
    remedy="Keep running means and variances on the client (FedBN), send them only aggregated over clients, or use "
    "GroupNorm, which has none.",
)
def batchnorm_statistics(evidence: Evidence) -> Iterator[Found]:
    """A client in train mode updates the running mean and variance of every BatchNorm layer, from this batch alone.

    Where these buffers are sent with the update, the server subtracts the old values and holds the mean and variance
    of the batch at every BatchNorm layer: threat model E, under which GradInversion works. For a single sample these
    are statistics of the sample itself. After K local steps it holds a weighted mean over their batches, exact
    statistics of one only for K = 1.

    Of a recorded update it is certified only where the update really holds the buffers.
    """
    layers, sent = evidence.target.batchnorm_layers, evidence.protocol.statistics_sent
    if evidence.protocol.mode == "train" and layers:
        given = [a.name for a in evidence.attacks if a.threat_model == "E" and a.status is RunStatus.RUN]
        shared = evidence.protocol.shared_statistics != "none" if sent is None else bool(sent)
        told = "the update comes with them" if shared else "if buffers are shared, the server learns them"
        if shared and evidence.protocol.steps > 1:
            told += f", as a weighted mean over the batches of {evidence.protocol.steps} local steps"
        yield Found(
            "medium" if 1 in evidence.protocol.batch_sizes or shared else "low",
            "certified" if shared else "estimated",
            f"Mean and variance are taken over this batch in {count(len(layers), 'BatchNorm layer')}; {told}.",
            {"layers": layers, "shared": evidence.protocol.shared_statistics, "attacks_that_used_them": given},
        )


@rule(
    "LA403",
    "The whole update is shared in the clear",
    worst="low",
    remedy="Aggregate securely over many clients, so that the server sees sums only; or have clients clip and add "
    "accounted noise before sending (DP-SGD).",
)
def full_update(evidence: Evidence) -> Iterator[Found]:
    """The server sees every trained tensor of one client's update, without a defence between client and server.

    Attacks need the update of one client. Aggregation hides it among others; noise bounds what it can tell. Neither
    was part of what was audited.
    """
    if not evidence.defences:
        yield Found(
            "low",
            "certified",
            f"All {evidence.target.trainable_tensors} trained tensors of a single client's update are visible, "
            "undefended.",
            {"tensors": evidence.target.trainable_tensors},
        )


@rule(
    "LA404",
    "Clients train in eval mode",
    worst="low",
    remedy="If clients really train with model.train(), audit that with --mode train (or --mode both); if they do "
    "train in eval mode, know that dropout and batch statistics then hide nothing.",
)
def eval_mode(evidence: Evidence) -> Iterator[Found]:
    """The model has dropout or BatchNorm, and the update was computed with both switched off.

    In eval mode every sample passes the same fixed function, which is what attackers assume. In train mode dropout
    masks are unknown and BatchNorm mixes the samples of a batch, which changes which attacks work.
    """
    layers = [*evidence.target.dropout_layers, *evidence.target.batchnorm_layers]
    if evidence.protocol.mode == "eval" and layers:
        yield Found(
            "low",
            "certified",
            f"Train mode, in which {count(len(layers), 'layer')} would behave differently, was not audited: "
            f"{', '.join(layers[:5])}.",
            {"layers": layers},
        )


@rule(
    "LA409",
    "Some tensors have no gradient yet",
    worst="low",
    remedy="Audit the weights after some rounds as well (--checkpoints): what adapters give away begins with the "
    "second step. A gradient of zero in the first one protects nothing.",
)
def resting(evidence: Evidence) -> Iterator[Found]:
    """Trained tensors have a gradient of exactly zero at these weights, only because others are still zero.

    An adapter (LoRA) adds B A x to a layer, and begins with B = 0. The gradient of A is then exactly zero in the first
    step, whatever the samples: that is no evidence of safety. The gradient of B holds A x of every token, and that of A
    follows as soon as B has moved.
    """
    names = evidence.target.resting
    if names:
        yield Found(
            "low",
            "certified",
            f"Without a gradient at these weights, but with one later: {count(len(names), 'trained tensor')}, such as "
            f"{names[0]}. That nothing is shown now says nothing of later.",
            {"tensors": len(names), "layers": names},
        )


@rule(
    "LA410",
    "Momentum is carried over from an earlier round",
    worst="low",
    remedy="Make a new optimizer in every round, so that its momentum begins at zero; or audit the rounds together and "
    "know that an update holds data of the rounds before.",
)
def carried_momentum(evidence: Evidence) -> Iterator[Found]:
    """Two recorded rounds of one client show that its optimizer was kept between them.

    Rows that no sample of the later round touched repeat what the earlier round did to them, all by one factor: the
    momentum that was left. Such an update is not explained by its own round's data, so readers of it are off by that
    share, and whoever sees one update learns something of the data of the rounds before.

    It shows only where some rows were not touched in the later round; that nothing is found is no evidence.
    """
    for found in evidence.protocol.carried:
        yield Found(
            "low",
            "certified",
            f"{found.rows} rows of {found.tensor} repeat an earlier round of the same client by the factor "
            f"{found.factor:.3g}: its momentum was kept.",
            {"tensors": found.tensor, "ratio": found.factor},
        )
