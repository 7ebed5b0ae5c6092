"""What the fault suite is made of: a stack to break, work to do, and ways to break it."""
