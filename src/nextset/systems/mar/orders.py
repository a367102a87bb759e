"""When the order of an image is drawn: as its run begins, from the run's noise, over what is not given of it.

Until then a request has a plan in raster order, of the same number of steps, so that a job can be made before anybody
knows seed, images and what will be given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextset.core.latents import Latents
from nextset.core.masked import cosine_counts, masked_random, random_orders
from nextset.core.plan import Plan
from nextset.core.steps import Step
from nextset.engine.controllers import Controller

if TYPE_CHECKING:
    from nextset.engine.run import Run


class DrawnOrder(Controller):
    """Puts the plan of random orders in the place of `plan`, before the first step of a run that still has it.

    Where fewer positions are open than there are steps, there are as many steps as open positions.
    """

    def __init__(self, plan: Plan, conditions: int) -> None:
        self.plan, self.conditions = plan, conditions

    def next(self, run: Run, step: Step | None) -> Step | None:
        if run.job.plan is not self.plan:
            return step
        canvas = run.job.canvas
        assert isinstance(canvas, Latents)
        orders = random_orders(run.noise.of("order"), run.images, canvas.given)
        left = cosine_counts(orders.shape[1], min(len(self.plan), orders.shape[1])) if orders.shape[1] else []
        run.job.plan = masked_random(orders, left, self.plan.positions, conditions=self.conditions)
        return run.upcoming()
