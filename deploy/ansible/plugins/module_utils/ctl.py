"""Runs ctl and reads its JSON. Fails the module in ctl's own words."""

import json

# Exit statuses of ctl that come with a whole document: done, some hosts failed or are away, all failed; for status,
# something does not run.
WITH_DOCUMENT = (0, 1, 3, 4)

ARGUMENTS = dict(
    ctl=dict(type='str', default='ctl'),
    controller=dict(type='str'),
    identity=dict(type='path'),
    timeout=dict(type='str'),
    hosts=dict(type='list', elements='str', default=[]),
    selector=dict(type='str'),
    all_hosts=dict(type='bool', default=False),
    away=dict(type='str', choices=['ok', 'fail'], default='ok'),
)


class Ctl:
    def __init__(self, module):
        self.module = module
        program = module.params['ctl']
        self.program = program if '/' in program else module.get_bin_path(program, required=True)
        self.common = ['-o', 'json']
        for option in ('controller', 'identity', 'timeout'):
            if module.params[option]:
                self.common += ['--' + option, module.params[option]]

    def scope(self):
        params = self.module.params
        scope = ['--all-hosts'] if params['all_hosts'] else []
        if params['hosts']:
            scope += ['--hosts', ','.join(params['hosts'])]
        if params['selector'] is not None:
            scope += ['-l', params['selector']]
        return scope

    def __call__(self, *arguments):
        """The document that ctl prints."""
        command = [self.program] + self.common + list(arguments)
        code, out, err = self.module.run_command(command)
        document = None
        if code in WITH_DOCUMENT:
            try:
                document = json.loads(out)
            except ValueError:
                pass
        if document is None:
            said = err.strip() or out.strip() or 'ctl ended with status %d and said nothing' % code
            self.module.fail_json(msg=said, rc=code, cmd=command)
        return document

    def judge(self, hosts, result):
        """Fails for hosts that have failed, and says which are away."""
        told = ['%s: %s' % (host['host'], host['reason']) for host in hosts
                if host['result'] not in ('ok', 'pending', 'away')]
        away = ['%s: %s' % (host['host'], host['reason']) for host in hosts
                if host['result'] in ('pending', 'away')]
        if self.module.params['away'] == 'fail':
            told += away
        else:
            for line in away:
                self.module.warn(line)
        if told:
            self.module.fail_json(msg='; '.join(told), **result)
