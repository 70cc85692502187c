"""Ansible sends each module the sources of its library, to be compiled again for every step. A Python that has
imported the installed library, which is the same, spares that. What a module starts is not to do so."""

import os

os.environ.pop('PYTHONPATH')

import ansible.module_utils.basic  # noqa: E402, F401
