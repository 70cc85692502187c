"""Options of every module here: how the fleet is reached."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  ctl:
    description: The program C(ctl), by name or path.
    type: str
    default: ctl
  controller:
    description: C(host:port) of the controller; what C(ctl) takes by itself, if not given.
    type: str
  identity:
    description: Directory with the operator's certificate; what C(ctl) takes by itself, if not given.
    type: path
  timeout:
    description: Longest time for a host to finish, as C(30s) or C(5m).
    type: str
  hosts:
    description: Hosts whose name fits one of these globs.
    type: list
    elements: str
    default: []
  selector:
    description: Hosts whose labels fit, as C(role=web,dc!=eu).
    type: str
  all_hosts:
    description: Every host of the fleet.
    type: bool
    default: false
  away:
    description:
      - What it means if a host is away. It catches up when it returns, except with a restart.
      - V(ok) gives a warning, V(fail) fails the task.
    type: str
    choices: [ok, fail]
    default: ok
"""
