"""Public fakes that are small real servers, and the suites that hold them to the real thing."""
