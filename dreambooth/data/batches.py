"""Which examples go into which micro-batch."""

from dataclasses import dataclass

from dreambooth.system import randomness


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the network at once: the subject's examples, then as many of the class."""

    places: list  # (step, slot, kind) of each example: the key of its random numbers
    pictures: list  # its index among Examples.pictures
    flips: list  # whether it is mirrored
    prompts: list  # its index among Examples.prompts


class Examples:
    """All pictures of all concepts, and the endless sequence of examples that is drawn from them."""

    def __init__(self, concepts, config, rank, processes):
        self.config, self.rank, self.processes = config, rank, processes
        self.pictures, self.prompts, self.prompt_of = [], [], []
        self.instance, self.prior = [], []
        for concept in concepts:
            self.instance += self.add(concept.pictures, concept.prompt)
            if config.concepts.with_prior_preservation:
                self.prior += self.add(concept.class_pictures, concept.class_prompt)

    def add(self, pictures, prompt):
        if prompt not in self.prompts:
            self.prompts.append(prompt)
        first = len(self.pictures)
        self.pictures += pictures
        self.prompt_of += [self.prompts.index(prompt)] * len(pictures)
        return range(first, len(self.pictures))

    def micro_batch(self, step, micro):
        """The examples of micro-batch `micro` of update `step` that this process computes.

        Slots number the examples of one update over all micro-batches and processes, so the same update results
        however it is split.
        """
        config = self.config
        first = (micro * self.processes + self.rank) * config.optimizer.train_batch_size
        places, pictures = [], []
        for kind, group in enumerate((self.instance, self.prior)):
            for slot in range(first, first + config.optimizer.train_batch_size) if group else ():
                index = step * config.optimizer.global_batch(self.processes) + slot
                places.append((step, slot, kind))
                pictures.append(group[randomness.pick(config.run.seed, f"order of kind {kind}", len(group), index)])
        flips = (
            randomness.integers(config.run.seed, "flip", places, 2)
            if config.pictures.random_flip
            else [0] * len(places)
        )
        return MicroBatch(places, pictures, [int(flip) for flip in flips], [self.prompt_of[i] for i in pictures])
