"""Where the model goes wrong, box by box: typed errors, the images worth a person's time, pictures of them, and the queue of a round."""
