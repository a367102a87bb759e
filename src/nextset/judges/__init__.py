"""Judges of pictures that need no download: every number is reproduced by everybody, offline, on any machine.

comparison    a choice of judges over two sets          report        what it says
figures       values beside their floors                floors        what two samples of one source get
sets          pictures behind one interface             sources       opens folders and `.npz` files
statistics    one pass over a set, kept for later       hashing       numbers by counter

pixels        8 bits, box resize, psnr, ssim            degradations  changes of known size that a judge must see
random_conv   the fixed random network                  frechet       moments, and the distance of two Gaussians
pca           colour and layout                         swd           sliced Wasserstein distance
spectrum      power by radius                           codebook      how a tokenizer's codes are used
memorisation  nearest pictures of the training set      search        the same over whole sets, and a sheet to look at
fidelity      a small classifier                        instruments   classifiers in files, with their own accuracy
attributes    what a picture of an emoji shows          wear          pictures as if a tokenizer had worn them
shares        shares with intervals                     sealed        trained judges, one file each
places        how well photos are located               calibration   whether probabilities are true
claims        what a miniature claim says, and how it ended
arms          the models that a claim compares: best guidance, figures, costs

None of these is FID, IS or LPIPS, and none is called so. May import everything below systems; imports core and data, and
knows no trainer and no model but the classifier that it trains itself. Pictures enter as uint8 (N, H, W, 3), in parts.
"""
