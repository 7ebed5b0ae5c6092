"""One handler for each kind of job: inputs down, work, outputs up."""
