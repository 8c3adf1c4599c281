"""S3, "Deepfake video forensics based on transfer learning": a new last layer on MobileNetV1's stored features.

α = 0.5 at 128 pixels, 2,500 steps of 5 random images at 0.005 (section IV, table 2). The document's features are the
1,001 values of TF-slim's classifier; Keras's pooled features are the default here, `arguments.bottleneck=classes` its
1,000 values.
"""

from tfdfd.training.recipe import Recipe

RECIPES = [
    Recipe(
        name="s3-mobilenet-v1-bottleneck",
        source="S3, section IV, table 2",
        expected="86.8 / 84.8 / 88.8 % test accuracy with 500 / 2,500 / 15,000 crops, in 2:40 / 6:15 / 40:32 minutes",
        network="mobilenet_v1",
        arguments={"alpha": 0.5},
        size=128,
        weights="imagenet",
        procedure="bottleneck",
        batch_size=5,
        steps=2500,
        optimizer="sgdm",
        momentum=0.0,
        learning_rate=0.005,
    )
]
