"""The loss of DreamBooth."""

import paddle.nn.functional as F


def dreambooth_loss(prediction, target, prior_loss_weight=None):
    """Mean squared error of the subject's pictures, plus, with prior preservation, that of the class pictures times
    their weight (Ruiz et al. 2023, eq. 2). With a weight, the first half of the batch is the subject's.

    Returns {"loss": what is minimised, and each part before weighting}.
    """
    prediction, target = prediction.astype("float32"), target.astype("float32")
    if prior_loss_weight is None:
        loss = F.mse_loss(prediction, target)
        return {"loss": loss, "instance_loss": loss}
    half = prediction.shape[0] // 2
    instance = F.mse_loss(prediction[:half], target[:half])
    prior = F.mse_loss(prediction[half:], target[half:])
    return {"loss": instance + prior_loss_weight * prior, "instance_loss": instance, "prior_loss": prior}
