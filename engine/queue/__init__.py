"""The queue: jobs that wait in the workspace, one file each, and are run one after the other."""
