"""Paddle's launcher where the user has hidden all cards: run this file as python -m paddle.distributed.launch."""

from __future__ import annotations


def main() -> None:
    """Launch the processes of the command line, on the CPU where Paddle finds no card."""
    # Library: Paddle 2.6.2 and 3.3.1.
    # Symptom: where CUDA_VISIBLE_DEVICES is empty, its launcher takes that for the name of one card, and the second
    # process for an IndexError.
    # Remedy: it counts the cards that Paddle finds, as it does where the variable is not set.
    # Test: test_processes_are_launched_where_all_cards_are_hidden, test_paddles_launcher_alone_fails_there.
    from paddle.distributed.launch.context.device import Device
    from paddle.distributed.launch.main import launch

    Device.parse_device = Device.detect_device
    launch()


if __name__ == "__main__":
    main()
