#!/usr/bin/python
"""Gives hosts of a fleet a bundle of configuration."""

DOCUMENTATION = r"""
module: bundle
short_description: Gives hosts of a Fleetvisor fleet a bundle of configuration
description:
  - Pushes a directory of C(.conf) files to the controller, which checks it and hands it to the hosts.
  - Nothing happens where the latest revision has this content and these hosts already.
author: Fleetvisor
extends_documentation_fragment: [fleetvisor.fleet.ctl]
options:
  name:
    description: Name of the bundle.
    type: str
    required: true
  path:
    description: Directory with the C(.conf) files, or one such file, on the machine where the module runs.
    type: path
  revision:
    description: An earlier revision that shall be the latest again; in place of O(path).
    type: int
  state:
    description: V(absent) takes the bundle away from all hosts, and its programs stop.
    type: str
    choices: [present, absent]
    default: present
  message:
    description: Why, for the history.
    type: str
attributes:
  check_mode:
    support: full
    description: The controller is asked what would change, and nothing is changed.
  diff_mode:
    support: full
    description: A unified diff, without secrets, and what starts, stops and restarts on each host.
"""

EXAMPLES = r"""
- name: Web servers have their programs
  fleetvisor.fleet.bundle:
    name: web
    path: conf.d/web
    selector: role=web

- name: As it was
  fleetvisor.fleet.bundle:
    name: web
    revision: 3

- name: No longer
  fleetvisor.fleet.bundle:
    name: web
    state: absent
"""

RETURN = r"""
revision:
  description: The latest revision. In check mode, what it would be.
  type: int
  returned: always, except where there is no bundle
plans:
  description: Per host the processes that start, stop and restart.
  type: list
  returned: when something changes
hosts:
  description: What came of it on each host.
  type: list
  returned: when something was changed
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleetvisor.fleet.plugins.module_utils.ctl import ARGUMENTS, Ctl


def plan_line(plan):
    parts = ['%s %s' % (verb, ' '.join(plan[verb])) for verb in ('start', 'stop', 'restart') if plan[verb]]
    return '%s: %s\n' % (plan['host'], ', '.join(parts))


def main():
    module = AnsibleModule(
        argument_spec=dict(
            ARGUMENTS,
            name=dict(type='str', required=True),
            path=dict(type='path'),
            revision=dict(type='int'),
            state=dict(type='str', choices=['present', 'absent'], default='present'),
            message=dict(type='str'),
        ),
        mutually_exclusive=[('path', 'revision'), ('all_hosts', 'hosts')],
        supports_check_mode=True,
    )
    params = module.params
    ctl = Ctl(module)
    name = params['name']
    if params['state'] == 'absent':
        present = any(bundle['bundle'] == name for bundle in ctl('config', 'list')['bundles'])
        if not present:
            module.exit_json(changed=False)
        command = ['config', 'delete', name]
    elif params['revision'] is not None:
        if ctl.scope():
            module.fail_json(msg='a revision has its own hosts: leave out hosts, selector and all_hosts')
        command = ['config', 'rollback', name, str(params['revision'])]
    elif params['path'] is not None:
        command = ['config', 'push', name, params['path']] + ctl.scope()
    else:
        module.fail_json(msg='state present needs path or revision')
    if params['message']:
        command += ['-m', params['message']]
    if module.check_mode:
        command.append('--dry-run')
    change = ctl(*command)
    result = dict(
        changed=change['changed'],
        revision=change['revision'],
        plans=change['plans'],
        hosts=change['hosts'],
        diff=dict(prepared=change['diff'] + ''.join(plan_line(plan) for plan in change['plans'])),
    )
    ctl.judge(change['hosts'], result)
    module.exit_json(**result)


if __name__ == '__main__':
    main()
