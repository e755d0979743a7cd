"""What a release holds: `make release` lays it out, `make verify-release` checks one."""
