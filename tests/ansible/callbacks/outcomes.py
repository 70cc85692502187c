"""Prints one JSON document per task and line: its name and what its module said, without what differs from
run to run. Nothing else goes to stdout."""

import json

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: outcomes
type: stdout
short_description: one JSON document per task
description: One JSON document per task and line, for a program to compare.
"""

KEPT = ('changed', 'failed', 'skipped', 'unreachable', 'name', 'state', 'affected', 'msg', 'rc', 'stdout', 'stderr')


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'stdout'
    CALLBACK_NAME = 'outcomes'

    def show(self, result, failed=False):
        said = result.result
        outcome = {key: said[key] for key in KEPT if key in said}
        outcome.update(task=result.task.get_name(), changed=bool(said.get('changed')), failed=failed)
        print(json.dumps(outcome), flush=True)

    def v2_runner_on_ok(self, result):
        self.show(result)

    def v2_runner_on_skipped(self, result):
        self.show(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.show(result, failed=True)

    def v2_runner_on_unreachable(self, result):
        self.show(result, failed=True)
