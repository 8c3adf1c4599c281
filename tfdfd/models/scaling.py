"""From RGB in [0, 1] to what a network was trained on, inside the network, so that nobody outside knows a mean."""

from keras import layers

# Of ImageNet, RGB in [0, 1]; and the BGR means in [0, 255] that Caffe's networks subtract, here in RGB order.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68, 116.779, 103.939)


def symmetric(image):
    """RGB in [0, 1] -> [-1, 1] (TensorFlow's networks)."""
    return layers.Rescaling(2.0, offset=-1.0, name="scaling")(image)


def standardised(image):
    """RGB in [0, 1] -> zero mean and unit variance over ImageNet (PyTorch's networks, EfficientNet)."""
    offset = [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)]
    return layers.Rescaling([1 / std for std in _STD], offset=offset, name="scaling")(image)


def centred(image):
    """RGB in [0, 1] -> [0, 255] less ImageNet's mean (Caffe's networks).

    Those want BGR; here the channels stay, and `tfdfd.weights.imagenet` turns the first kernel round instead.
    """
    return layers.Rescaling(255.0, offset=[-mean for mean in _CAFFE_MEAN], name="scaling")(image)
