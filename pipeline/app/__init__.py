"""The things that a person does with a data set, whatever shows them: labelling images."""
