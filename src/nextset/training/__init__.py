"""Training: follows the Updates of anything that yields them. May import core, nn and data; knows no system.

trainer      the loop: backward, clip, step, mean weights, logs, samples, checkpoints, resume
recipes      TOML files and TrainConfig            schedules    learning rate and weight decay as functions
optim        decay groups, AdamW, clipping         ema          running mean of the weights
finite       where a NaN came from, and when       checkpoints  whole or absent, verified
parallel     weights on several processes          shards       checkpoints that each writes a part of
batches      which samples a step sees             metrics      JSONL, a line a logging step
report       what a person sees                    interrupts   SIGINT and SIGTERM end a run after its step
run_record   a run as its folder tells it          run_page     the same as one HTML page, with charts and advice
"""
