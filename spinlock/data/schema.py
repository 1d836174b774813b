"""The Spinlock HDF5 layout, written once: names, shapes, types, and why they are so.

    /                       attrs: format "spinlock", schema_version
    /parameters/unit        [N, P]  f8   unit-cube coordinates; with the seeds, they are the
                                         operator. attr names [P]
    /parameters/physical    [N]          compound: one member for each of the P names, for
                                         people; derived from unit and the domain's config
    /parameters/conditioning [N, P'] f4  what a model is given. attr names [P']
    /seeds                  [N]     u8   of each operator: its weights, initial field and noise
    /inputs/fields          [N, C, H, W] f4   the initial condition; shared by realizations.
                                              attr channel_names [C]
    /outputs/fields         [N, M, T, C, H, W] f4 | f2   frame 0 is the initial condition
    /features/<family>      [N, M, n] f4 optional, of the trajectory as stored. attr names [n]
    /metadata/config        JSON text    the GenerateConfig that made the file
    /metadata/provenance    JSON text    when, with which versions, from which commit it was begun
    /metadata/completed     scalar u8    operators written so far; N in a finished file
    /metadata               attr domain

Every array is contiguous and uncompressed. A window of one trajectory is then one range of
bytes: measured on [4, 257, 3, 64, 64] float32, warm, a whole trajectory takes 4.8 ms and its
last 32 frames 1.8 ms, against 39 and 8.8 ms with gzip and shuffle, and 841 ms in gzip chunks
that span eight samples, for files a fifth smaller. It also fixes every array's place in the
file from the start, which is what makes generation safe to kill (see writer.py).
"""

FORMAT = "spinlock"
SCHEMA_VERSION = 1

UNIT = "parameters/unit"
PHYSICAL = "parameters/physical"
CONDITIONING = "parameters/conditioning"
SEEDS = "seeds"
INPUTS = "inputs/fields"
OUTPUTS = "outputs/fields"
FEATURES = "features"
CONFIG = "metadata/config"
PROVENANCE = "metadata/provenance"
COMPLETED = "metadata/completed"
