"""What runs in the process of one attempt of a job, a module for each type of job."""
