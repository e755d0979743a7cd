"""What surrounds a stage and can't change its result: parameters, errors, guard, atomic files."""
