#!/usr/bin/python
"""Starts, stops and restarts processes on hosts of a fleet."""

DOCUMENTATION = r"""
module: run_state
short_description: Starts, stops and restarts processes on hosts of a Fleetvisor fleet
description:
  - Nothing happens where every process is as it should be. V(restarted) always restarts.
  - The controller remembers what was started and stopped, so a host that is away catches up.
author: Fleetvisor
extends_documentation_fragment: [fleetvisor.fleet.ctl]
options:
  targets:
    description:
      - Names as C(ctl) takes them, C(web:), C(app:app_00), C(all), or with a host in front C(web-01:web:).
      - Without a host in front they need O(hosts), O(selector) or O(all_hosts).
    type: list
    elements: str
    required: true
  state:
    description: What the processes shall be.
    type: str
    choices: [started, stopped, restarted]
    required: true
attributes:
  check_mode:
    support: full
    description: The controller is asked how things are, and nothing is changed.
  diff_mode:
    support: full
    description: The processes that are not as they should be, before and after.
"""

EXAMPLES = r"""
- name: Workers run everywhere
  fleetvisor.fleet.run_state:
    targets: ["worker:"]
    all_hosts: true
    state: started

- name: A new release is taken up
  fleetvisor.fleet.run_state:
    targets: ["web:"]
    selector: role=web
    state: restarted
"""

RETURN = r"""
processes:
  description: Names of the processes that were changed, or would be.
  type: list
  returned: always
results:
  description: What came of it for each process.
  type: list
  returned: when something was changed
hosts:
  description: What came of it on each host.
  type: list
  returned: when something was changed
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleetvisor.fleet.plugins.module_utils.ctl import ARGUMENTS, Ctl

STARTED = ('RUNNING', 'STARTING')
STOPPED = ('STOPPED', 'EXITED', 'FATAL')
VERBS = {'started': 'start', 'stopped': 'stop', 'restarted': 'restart'}


def is_as_wanted(process, state):
    if state == 'restarted':
        return False
    return process['state'] in (STARTED if state == 'started' else STOPPED)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            ARGUMENTS,
            targets=dict(type='list', elements='str', required=True),
            state=dict(type='str', choices=sorted(VERBS), required=True),
        ),
        mutually_exclusive=[('all_hosts', 'hosts')],
        supports_check_mode=True,
    )
    state, targets = module.params['state'], module.params['targets']
    ctl = Ctl(module)
    status = ctl(*ctl.scope(), 'status', *targets)
    if status['unmatched']:
        module.fail_json(msg='no such process: ' + ', '.join(status['unmatched']))
    processes = [process for host in status['hosts'] for process in host['processes']]
    if not processes:
        module.fail_json(msg='no host, or no process, fits')
    others = [process for process in processes if not is_as_wanted(process, state)]
    after = 'STOPPED' if state == 'stopped' else 'RUNNING'
    result = dict(
        changed=bool(others),
        processes=[process['name'] for process in others],
        diff=dict(
            before=''.join('%s %s\n' % (process['name'], process['state']) for process in others),
            after=''.join('%s %s%s\n' % (process['name'], after, ' (restarted)' if state == 'restarted' else '')
                          for process in others),
        ),
    )
    if others and not module.check_mode:
        names = [process['name'] for process in others] if state != 'restarted' else targets
        scope = ctl.scope() if state == 'restarted' else []
        run = ctl(*scope, VERBS[state], *names)
        result.update(results=run['results'], hosts=run['hosts'])
        bad = ['%s: %s' % (entry['name'], entry['text']) for entry in run['results'] if entry['outcome'] == 'failed']
        if bad:
            module.fail_json(msg='; '.join(bad), **result)
        ctl.judge(run['hosts'], result)
    module.exit_json(**result)


if __name__ == '__main__':
    main()
