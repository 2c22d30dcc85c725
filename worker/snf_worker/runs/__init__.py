"""Records of training runs, of jobs and of the command line: parameters, curve and result, to be compared later."""
