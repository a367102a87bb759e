"""Data sets, pictures in and out, cached codes. Imports everything below systems; knows no system.

dataset    `Dataset`, what all sets promise; `open_dataset` by name or place
inventory  what a set holds, and what was left out of it

emoji      the testbed that is rendered on the spot      folder    pictures in sub-folders
shapes     clips of moving shapes, rendered as well      clips     clips in sub-folders
video      clips in and out, and as sheets
emoji_list names, and which variants are kept            emoji_phrases  captions by rule
emoji_attributes  tone, gender, role, colour, shape; what is held out
captions   texts and labels beside them                  packed    pictures in one .npz
shards     WebDataset .tar files                         huggingface  the hub, and its formats
pictures   what all but emoji become in memory           classes   labels to numbers and names

maps       maps of the ground: what a path is, views   maps_tiles  tile pyramids and MBTiles
maps_raster  GeoTIFF, a picture with its bounds        geotag     positions in EXIF data
places     photos with places, to learn from           placed_photos  those of files
city       the testbed of photos and maps: seen from above; city_plan how it is built, city_streets its photos,
           city_photos a data set of them, city_files a city as files
augment_photos  street photos in training              panels     a search as a picture

framing    a picture to its size                         crops     pictures kept larger than seen
augment    position, scale, ground of emoji              codes     a set as a tokenizer sees it
decode     any picture file to upright RGB               images    tensors to pictures, sizes, writing
arrays     .npz files, safely
"""
