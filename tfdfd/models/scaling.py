"""From RGB in [0, 1] to what a network was trained on, inside the network, so that nobody outside knows a mean."""

from keras import layers

# Of ImageNet, RGB in [0, 1]; and the BGR means in [0, 255] that Caffe's networks subtract, here in RGB order.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
# Of CLIP's images (Radford et al., arXiv:2103.00020, their code), RGB in [0, 1].
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def symmetric(image):
    """RGB in [0, 1] -> [-1, 1] (TensorFlow's networks)."""
    return layers.Rescaling(2.0, offset=-1.0, name="scaling")(image)


def standardised(image):
    """RGB in [0, 1] -> zero mean and unit variance over ImageNet (PyTorch's networks, EfficientNet)."""
    return _standardized(image, _MEAN, _STD)


def standardized_for_clip(image):
    """RGB in [0, 1] -> zero mean and unit variance over CLIP's images."""
    return _standardized(image, _CLIP_MEAN, _CLIP_STD)


def centred(image):
    """RGB in [0, 1] -> [0, 255] less ImageNet's mean (Caffe's networks).

    Those want BGR; here the channels stay, and `tfdfd.weights.imagenet` turns the first kernel round instead.
    """
    return layers.Rescaling(255.0, offset=[-mean for mean in _CAFFE_MEAN], name="scaling")(image)


def lite(image):
    """RGB in [0, 1] -> (255 x - 127) / 128, in [-0.993, 1] (EfficientNet-Lite)."""
    return layers.Rescaling(255 / 128, offset=-127 / 128, name="scaling")(image)


def _standardized(image, means, deviations):
    offset = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
    return layers.Rescaling([1 / deviation for deviation in deviations], offset=offset, name="scaling")(image)
