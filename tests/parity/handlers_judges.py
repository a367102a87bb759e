"""How the cases of the judges are computed with nextset: numbers come out of the rooms, none is computed here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nextset.judges import random_conv as net
from nextset.judges.codebook import codebook
from nextset.judges.degradations import add_noise, blur
from nextset.judges.frechet import Moments, Scale, frechet
from nextset.judges.memorisation import Nearest, thumbnails
from nextset.judges.pca import Basis, flat_pixels
from nextset.judges.pixels import as_rgb, psnr, ssim
from nextset.judges.spectrum import radial_power, rpsd_db
from nextset.judges.swd import Lines, directions, swd
from tests.parity.cases import Case

Found = dict[str, Tensor]


def images(case: Case, name: str) -> np.ndarray:
    return as_rgb(case.inputs[name].numpy())


def tensors(**found: np.ndarray | float) -> Found:
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


def random_conv(case: Case) -> Found:
    args = case.args
    assert (tuple(args["channels"]), tuple(args["strides"])) == (net.CHANNELS, net.STRIDES)
    found = {"features": net.RandomConv(args["seed"], args["R"])(images(case, "images"))}
    for layer in (1, 2, 3, 4):
        weights = net.layer_weights(args["seed"], layer).ravel()
        found |= {f"first16_l{layer}": weights[:16], f"sum_l{layer}": weights.astype(np.float64).sum()}
    return tensors(**found)


def frechet_distance(case: Case) -> Found:
    a, b = (Moments.of(case.inputs[name].numpy()) for name in ("a", "b"))
    scale = Scale.of(b)
    return tensors(fd=frechet(a, b), fd_z=frechet(scale(a), scale(b)), fd_self=frechet(a, a))


def pixel(case: Case) -> Found:
    a, b = images(case, "a"), images(case, "b")
    return tensors(psnr=psnr(a, b), ssim=ssim(a, b), blur1=blur(a, 1), noise10=add_noise(a, 10))


def sets(case: Case) -> Found:
    args, a, b = case.args, images(case, "a"), images(case, "b")
    lines = Lines(a.shape[1:3], args["n_directions"])
    basis = Basis.of(Moments.of(flat_pixels(a)), args["pca"])
    nearest = Nearest(thumbnails(b, args["nn_side"]))
    nearest.add(thumbnails(a, args["nn_side"]))
    power_a, power_b = (radial_power(x).mean(0) for x in (a, b))
    return tensors(
        dir0_first8=directions(a[0].size, 1)[0, :8],
        swd=swd(lines(a), lines(b)),
        radial_a=power_a,
        rpsd_db=rpsd_db(power_b, power_a),
        pca_eig=basis.variances,
        pca_fd=frechet(Moments.of(basis(b)), Moments.of(basis(a))),
        nn_dist=nearest.distance,
        nn_index=nearest.index,
    )


def codes(case: Case) -> Found:
    use = codebook(case.inputs["ids"].numpy(), case.args["V"])
    found = tensors(counts=use.counts, perplexity=use.perplexity, usage=use.usage)
    return found if use.position_perplexity is None else found | tensors(position_perplexity=use.position_perplexity)


HANDLERS = {
    "random-conv": random_conv,
    "frechet": frechet_distance,
    "pixel": pixel,
    "set": sets,
    "codebook": codes,
}
