"""Fine-tuning as a job at an endpoint: the file that goes there, the job's life, and the model's name."""
