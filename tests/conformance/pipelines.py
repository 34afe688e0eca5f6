"""transformers' pipeline tests for tiny models made here; the library's own come from the Hub."""

import importlib

from tests.test_pipeline_mixin import PipelineTesterMixin, pipeline_test_mapping


class LocalPipelineTesterMixin(PipelineTesterMixin):
    """`pipeline_components(task)` gives what `get_test_pipeline` of the library's test of a task takes."""

    def run_task_tests(self, task, dtype="float32"):
        if task not in self.pipeline_model_mapping:
            self.skipTest(f"{task} is no task of this model.")
        module, name = pipeline_test_mapping[task]["test"].rsplit(".", 1)
        task_test = getattr(importlib.import_module(module), name)()
        pipeline, examples = task_test.get_test_pipeline(**self.pipeline_components(task), dtype=dtype)
        task_test.run_pipeline_test(pipeline, examples)
        self.assertEqual(len(list(pipeline((example for example in examples), batch_size=2))), len(examples))
