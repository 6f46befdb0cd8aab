-- Run once, when the volume is new: the database of Prefect is made by the image, the store's here.
CREATE DATABASE headrace;
