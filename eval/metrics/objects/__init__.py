"""The metrics as `torchmetrics.Metric` objects: states that are merged over ranks, around the pure functions.

They are for `unclip evaluate` and for anybody's LightningModule: `update` with what was seen, `compute` or `interval`
for the number, `self.log(name, metric)`. Sums are float64; features are kept as they come, and computed with in
float64.
"""
