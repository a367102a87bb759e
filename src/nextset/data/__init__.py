"""Data sets, pictures in and out, cached codes. Imports everything below systems; knows no system.

dataset   `Dataset`, what all sets promise; `open_dataset` by name or place
emoji     the testbed that is rendered on the spot      folder    pictures in sub-folders
packed    pictures in one .npz                          pictures  what the last two become in memory
augment   position, scale, ground                       codes     a set as a tokenizer sees it
decode    any picture file to upright RGB               images    tensors to pictures, sizes, writing
arrays    .npz files, safely
"""
