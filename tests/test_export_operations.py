"""Operations of an exported graph: those on the list and no others, wherever in the SavedModel they are hidden."""

import shutil

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfdfd.publishing.allowed_operations import ALLOWED, ForbiddenOperation, check_operations

# Of each kind that a graph of ours has no use for.
FORBIDDEN = (
    "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "SaveV2", "RestoreV2", "MergeV2Checkpoints",
    "LoadLibrary", "HashTableV2", "InitializeTableFromTextFileV2", "TextLineDataset", "WholeFileReaderV2", "_Send",
    "RemoteCall", "DebugIdentityV2", "PrintV2", "DecodeImage", "DecodeGif", "RpcCall", "XlaLaunch",
)  # fmt: skip


@pytest.fixture(scope="module")
def graph(exported):
    read = saved_model_pb2.SavedModel()
    read.ParseFromString((exported / "saved_model.pb").read_bytes())
    return read


@pytest.fixture
def changed(graph, exported, tmp_path):
    """A function that changes the graph and gives the folder of the SavedModel with it."""

    def change(function):
        copy = saved_model_pb2.SavedModel()
        copy.CopyFrom(graph)
        function(copy.meta_graphs[0])
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        (folder / "saved_model.pb").write_bytes(copy.SerializeToString())
        return folder

    return change


def refused(folder, words=None):
    with pytest.raises(ForbiddenOperation, match=words) as error:
        check_operations(folder)
    return str(error.value)


def function_named(meta, part):
    return next(one for one in meta.graph_def.library.function if part in one.signature.name)


def saver_nodes(meta):
    names = (meta.saver_def.save_tensor_name.partition(":")[0], meta.saver_def.restore_op_name)
    return [next(node for node in meta.graph_def.node if node.name == name) for name in names]


def test_ours_passes_and_was_not_loaded(exported, monkeypatch):
    def loaded(*arguments, **options):
        raise AssertionError("the graph was handed to TensorFlow")

    for module, name in ((tf.saved_model, "load"), (tf.graph_util, "import_graph_def"), (tf, "import_graph_def")):
        monkeypatch.setattr(module, name, loaded)
    check_operations(exported)
    check_operations(exported / "feature_vector")


def test_the_list_has_nothing_that_reaches_outside():
    assert not ALLOWED & set(FORBIDDEN)
    for word in (
        "File",
        "Dataset",
        "Py",
        "Table",
        "Send",
        "Recv",
        "Rpc",
        "Summary",
        "Print",
        "Remote",
        "Save",
        "Restore",
    ):
        assert not [name for name in ALLOWED if word in name], word


@pytest.mark.parametrize("operation", FORBIDDEN)
def test_an_operation_in_the_graph_is_found(changed, operation):
    def add(meta):
        meta.graph_def.node.add(name="innocent", op=operation)

    assert f"'{operation}'" in refused(changed(add))


@pytest.mark.parametrize("operation", ["ReadFile", "EagerPyFunc", "RestoreV2", "made_up"])
@pytest.mark.parametrize("place", ["signature_wrapper_image_bytes", "map_while_body", "traced_save", "traced_restore"])
def test_an_operation_in_a_function_is_found(changed, place, operation):
    def add(meta):
        function_named(meta, place).node_def.add(name="innocent", op=operation)

    if (place, operation) != ("traced_restore", "RestoreV2"):
        assert f"'{operation}'" in refused(changed(add))
    else:
        refused(changed(add), "restores from another file")


def test_a_function_that_nothing_calls_is_looked_at_too(changed):
    def add(meta):
        function = meta.graph_def.library.function.add()
        function.signature.name = "innocent"
        function.node_def.add(name="read", op="ReadFile")

    refused(changed(add), "function innocent has the operation 'ReadFile'")


def test_a_function_cannot_hide_behind_the_name_of_an_allowed_operation_twice(changed):
    def add(meta):
        meta.graph_def.library.function.add().CopyFrom(meta.graph_def.library.function[0])

    refused(changed(add), "several functions or nodes named")


class TestVariables:
    """What TensorFlow itself needs to read them is of no use to anybody else."""

    def test_are_not_restored_by_a_signature(self, changed):
        def add(meta):
            node = next(one for one in meta.graph_def.node if one.name == "StatefulPartitionedCall")
            node.attr["f"].func.name = function_named(meta, "traced_restore").signature.name

        refused(changed(add), "calls the function that reads and writes")

    def test_are_not_restored_by_a_function(self, changed):
        def add(meta):
            function = next(one for one in meta.graph_def.library.function if "signature_wrapper" in one.signature.name)
            call = function.node_def.add(name="innocent", op="StatefulPartitionedCall")
            call.attr["f"].func.name = function_named(meta, "traced_save").signature.name

        refused(changed(add), "calls the function that reads and writes")

    @pytest.mark.parametrize("control", ["", "^"])
    def test_are_not_restored_on_the_way_to_another_node(self, changed, control):
        def add(meta):
            node = next(one for one in meta.graph_def.node if one.op == "NoOp")
            node.input.append(control + saver_nodes(meta)[1].name)

        refused(changed(add), "runs a node that reads and writes")

    def test_are_not_saved_where_a_client_says(self, changed):
        def add(meta):
            save = saver_nodes(meta)[0]
            signature = meta.signature_def["serving_default"]
            signature.outputs["innocent"].name = f"{save.name}:0"

        refused(changed(add), "signature 'serving_default'")

    def test_are_not_fed_a_file_name_by_a_client(self, changed):
        def add(meta):
            meta.signature_def["serving_default"].inputs["innocent"].name = meta.saver_def.filename_tensor_name

        refused(changed(add), "signature 'serving_default'")

    def test_are_not_read_from_a_file_of_the_graphs_choice(self, changed):
        def add(meta):
            node = next(one for one in meta.graph_def.node if one.name == "saver_filename")
            node.op = "Const"
            node.attr["value"].tensor.string_val.append(b"/etc/passwd")

        refused(changed(add), "file name is overruled")

        def swap(meta):
            saver_nodes(meta)[1].input[0] = saver_nodes(meta)[1].input[1]

        refused(changed(swap), "does not take the loader's file name")

    def test_are_not_run_when_it_is_loaded(self, changed):
        def add(meta):
            meta.collection_def["saved_model_main_op"].node_list.value.append(saver_nodes(meta)[0].name)

        refused(changed(add), "collection 'saved_model_main_op'")

    def test_have_no_function_that_can_be_called(self, changed):
        def add(meta):
            meta.object_graph_def.concrete_functions[function_named(meta, "traced_save").signature.name].SetInParent()

        refused(changed(add), "can be called after loading")


class TestObjects:
    def test_that_read_assets_are_refused(self, changed):
        def add(meta):
            meta.asset_file_def.add(filename="words.txt")

        refused(changed(add), "assets")

    @pytest.mark.parametrize("kind", ["asset", "resource"])
    def test_of_other_kinds_are_refused(self, changed, kind):
        def add(meta):
            getattr(meta.object_graph_def.nodes.add(), kind).SetInParent()

        refused(changed(add), f"'{kind}'")

    def test_of_registered_classes_are_refused(self, changed):
        def add(meta):
            meta.object_graph_def.nodes[0].registered_name = "evil.Class"

        refused(changed(add), "evil.Class")

    def test_of_keras_are_refused(self, changed):
        def add(meta):
            meta.object_graph_def.nodes[0].user_object.identifier = "_tf_keras_model"

        refused(changed(add), "_tf_keras_model")


class TestFiles:
    @pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
    def test_that_stand_for_the_graph_are_refused(self, changed, name):
        folder = changed(lambda meta: None)
        check_operations(folder)
        (folder / name).write_bytes(b"")
        refused(folder, name)

    @pytest.mark.parametrize("name", ["saved_model.pb", "variables"])
    def test_that_are_links_are_refused(self, changed, exported, name):
        folder = changed(lambda meta: None)
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        (folder / name).symlink_to(exported / name)
        refused(folder, "is a link")

    @pytest.mark.parametrize("content", [b"no graph", b"\xff" * 1000, b""])
    def test_that_are_no_graph_are_an_error(self, changed, content):
        folder = changed(lambda meta: None)
        (folder / "saved_model.pb").write_bytes(content)
        with pytest.raises(ValueError, match="is not a SavedModel|0 graphs"):
            check_operations(folder)

    def test_that_are_not_there_are_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="holds no SavedModel: there is no saved_model.pb"):
            check_operations(tmp_path)

    def test_with_two_graphs_are_refused(self, changed, graph):
        folder = changed(lambda meta: None)
        twice = saved_model_pb2.SavedModel()
        twice.meta_graphs.extend([graph.meta_graphs[0]] * 2)
        (folder / "saved_model.pb").write_bytes(twice.SerializeToString())
        refused(folder, "holds 2 graphs")
